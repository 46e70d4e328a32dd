"""The training loop: cross-entropy with labels, or distillation from a teacher's outputs without them."""

from collections.abc import Callable
from pathlib import Path

from onnxprune.calibration.dataset import Dataset
from onnxprune.config import FinetuneConfig
from onnxprune.graph.model import Model
from onnxprune.importance.base import Progress, no_progress
from onnxprune.repair.finetune.result import Epoch, FinetuneResult


def finetune(
    model: Model,
    data: Dataset,
    *,
    teacher: Model | None = None,
    config: FinetuneConfig | None = None,
    validation: Dataset | None = None,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> FinetuneResult:
    """Train a model's weights.

    With a teacher, the loss compares its outputs with the model's: the Kullback-Leibler divergence of their softmax
    outputs for classifiers, the squared error relative to the teacher's variance otherwise; labels are not needed.
    Without one, it is the cross-entropy with the rows' labels.

    Args:
        model: what is trained; never changed.
        data: training rows.
        teacher: a model with the same inputs and outputs, for example the original of a pruned model.
        config: options.
        validation: rows that choose the best epoch; by default a share of `data` is held out for it.
        checkpoint: file that the state is written to after every epoch; where it exists, training goes on from it.
        progress: told of steps ("finetune", steps done, steps in all).
        on_epoch: called after every epoch, also for epoch 0 (the model as it came).

    Raises:
        InputError: neither teacher nor labels; too few rows; torch is missing; the checkpoint is of another training.
        ModelError: an operator has no rule for torch (found before any work), or nothing can be trained.
    """
    raise NotImplementedError
