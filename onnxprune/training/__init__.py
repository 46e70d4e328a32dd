"""Fine-tuning and distillation of ONNX models in torch (needs the extra `finetune`).

The graph runs in torch through `OpHandler.torch`, one short rule an operator; trained weights are written back by name
and nothing else in the file changes. torch is imported only when a function here is called.
"""

from onnxprune.training.result import Epoch, FinetuneResult
from onnxprune.training.train import finetune, split

__all__ = ["Epoch", "FinetuneResult", "finetune", "split"]
