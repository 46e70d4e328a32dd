"""What training minimises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.config import FinetuneConfig
from onnxprune.core.errors import InputError
from onnxprune.outputs.meaning import OutputKind
from onnxprune.torchnet.network import import_torch

if TYPE_CHECKING:
    import torch

_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss over rows, and the share of rows whose predicted class is the wanted one.

    With a teacher whose outputs are class scores, the loss is `T^2 KL(p_T || q_T)` in nats, where `p_T` and `q_T` are
    the softmax of the teacher's and the model's scores divided by the temperature `T` (Hinton, Vinyals, Dean:
    "Distilling the knowledge in a neural network", 2015). With other outputs it is their squared error relative to the
    teacher's energy. With labels it is the cross-entropy; with both, a weighted sum.

    Attributes:
        kind: what the outputs mean.
        with_teacher: whether a teacher's outputs are given.
        label_weight: share of the cross-entropy, in [0, 1].
        temperature: see above.
    """

    kind: OutputKind
    with_teacher: bool
    label_weight: float
    temperature: float

    @property
    def name(self) -> str:
        """How `FinetuneResult.loss` calls it."""
        if not self.with_teacher:
            return "cross-entropy"
        return ("distillation" if self.classifies else "regression") + ("+labels" if self.label_weight else "")

    @property
    def classifies(self) -> bool:
        """Whether there are class scores."""
        return self.kind.scores is not None

    def loss(self, outputs: Mapping[str, Any], wanted: Mapping[str, Any] | None, labels: "torch.Tensor | None") -> Any:
        """The mean loss of a batch.

        Args:
            outputs: the model's, `(rows, ...)` by name.
            wanted: the teacher's, by the same names.
            labels: `(rows,)` class numbers.
        """
        total = 0.0
        if wanted is not None and self.label_weight < 1:
            divergence = self._divergence if self.classifies else self._relative_error
            total = total + (1 - self.label_weight) * divergence(outputs, wanted)
        if labels is not None and self.label_weight > 0:
            torch = import_torch()
            total = total + self.label_weight * torch.nn.functional.nll_loss(self._log_softmax(outputs, 1.0), labels)
        return total

    def hits(
        self, outputs: Mapping[str, Any], wanted: Mapping[str, Any] | None, labels: "torch.Tensor | None"
    ) -> float:
        """Number of rows whose arg-max is the label's (the teacher's without labels); NaN without class scores."""
        name = self.kind.scores
        if name is None or (labels is None and wanted is None):
            return float("nan")
        predicted = _as_scores(outputs[name]).argmax(1)
        target = labels if labels is not None else _as_scores(wanted[name]).argmax(1)  # type: ignore[index]
        return float((predicted == target).sum())

    def _divergence(self, outputs: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
        log_p, log_q = (self._log_softmax(values, self.temperature) for values in (wanted, outputs))
        return self.temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()

    def _log_softmax(self, outputs: Mapping[str, Any], temperature: float) -> Any:
        scores = _as_scores(outputs[str(self.kind.scores)])
        if self.kind.form == "probabilities":
            scores = scores.clamp(min=_SMALLEST_PROBABILITY).log()
        return (scores / temperature).log_softmax(1)

    def _relative_error(self, outputs: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
        errors = [
            (outputs[name] - wanted[name]).square().sum() / wanted[name].square().sum().clamp(min=_SMALLEST_PROBABILITY)
            for name in self.kind.outputs
        ]
        return sum(errors) / len(errors)


def _as_scores(output: Any) -> Any:
    """Class scores `(rows, classes)`; one column `p` becomes the two `1 - p, p`, as in `outputs.meaning`."""
    scores = output.flatten(1)
    return import_torch().cat([1 - scores, scores], 1) if scores.shape[1] == 1 else scores


def choose_objective(
    name: str, kind: OutputKind, labels: Any, classes: int | None, with_teacher: bool, config: FinetuneConfig
) -> Objective:
    """The objective that a teacher, labels and the options ask for.

    Args:
        name: the model's, for messages.
        kind: what its outputs mean.
        labels: `(rows,)` class numbers, or None.
        classes: number of class scores, None where there are none.
        with_teacher: whether there is a teacher.
        config: options.

    Raises:
        InputError: neither a teacher nor labels, or labels that do not fit the outputs.
    """
    weight = config.label_weight if with_teacher else 1.0
    if weight > 1:
        raise InputError(f"label-weight is a share: {weight:g} is above 1")
    if config.temperature <= 0:
        raise InputError("the temperature must be above 0")
    objective = Objective(kind, with_teacher, weight, config.temperature)
    if not weight:
        if not kind.outputs:
            raise InputError(f"{name} has no floating-point output that could be matched to a teacher's")
        return objective
    if labels is None:
        raise InputError("the rows have no labels: give data with labels (y), or a teacher to learn from (--teacher)")
    if not objective.classifies or classes is None:
        raise InputError(f"{name} has no class scores that labels could train; give a teacher instead (--teacher)")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels run from {labels.min()} to {labels.max()}, but {name} has {classes} class scores")
    return objective
