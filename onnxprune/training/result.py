"""The result of fine-tuning."""

from dataclasses import dataclass

from onnxprune.core.engine import CPU_NAME
from onnxprune.graph.model import Model


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training rows.

    Attributes:
        number: counted from 1; 0 is the model as it came.
        train_loss: mean loss of the training rows as augmented; NaN for number 0.
        held_out_loss: mean loss of the held-out rows (of the training rows as they are where none are held out).
        held_out_agreement: share of those rows whose arg-max is the label's, or the teacher's; NaN for other outputs
            than one row of class scores.
        lr: learning rate of the last step.
        seconds: wall-clock time, held-out rows included.
    """

    number: int
    train_loss: float
    held_out_loss: float
    held_out_agreement: float
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """A fine-tuned model and how training went.

    Attributes:
        model: the model with the weights of the best epoch; everything else as it was.
        original: the model as it came.
        history: all epochs, number 0 first.
        best: number of the epoch whose weights were kept; 0 where training only made it worse.
        loss: what was minimised: "cross-entropy", "distillation" (KL), "regression" (relative squared error), or
            "distillation+labels".
        device: where torch ran: "cpu" or "cuda".
        seconds: wall-clock time in all.
        provider: execution provider of onnxruntime for the teacher's outputs.
        warnings: what makes the rows something else than they seem.
    """

    model: Model
    original: Model
    history: tuple[Epoch, ...]
    best: int
    loss: str
    device: str
    seconds: float
    provider: str = CPU_NAME
    warnings: tuple[str, ...] = ()
