"""From a torch module to a smaller ONNX file: torch.onnx.export, then prune the protobuf in memory.

    python docs/recipes/export_from_torch.py OUT.onnx

The network here is a small one with random weights; put yours in its place, and real rows for the random ones.
"""

import io
import sys

import numpy as np
import onnx
import torch
from torch import nn

import onnxprune


def network() -> nn.Module:
    """A small convolutional network, in evaluation mode: export folds BatchNormalization only then."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def export(module: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """The module as a protobuf with a free batch axis."""
    if hasattr(torch.onnx, "ONNXProgram"):
        batch = {0: torch.export.Dim("batch")}
        program = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
        return program.model_proto
    stream = io.BytesIO()
    torch.onnx.export(module, (example,), stream, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    return onnx.load_model_from_string(stream.getvalue())


def main(output: str) -> None:
    """Export, prune and check that torch and the pruned file are about the same network."""
    module, rows = network(), np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    proto = export(module, torch.from_numpy(rows[:2]))
    result = onnxprune.prune(proto, rows, targets="macs=0.6")
    result.save(output)
    print(f"{result.before.macs:,} to {result.after.macs:,} MACs, {output}")
    print(f"relative output error {result.metrics['relative_error'].after:.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pruned.onnx")
