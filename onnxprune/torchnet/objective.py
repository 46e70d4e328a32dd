"""The loss that training minimises: cross-entropy with labels, or divergence from a teacher's outputs, in torch.

The divergence is that of `onnxprune.outputs.divergence`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.config import FinetuneConfig
from onnxprune.core.errors import InputError
from onnxprune.outputs.divergence import FLOOR, Reference
from onnxprune.outputs.meaning import Meaning, Part
from onnxprune.outputs.probability import SMALLEST_CHANCE, SMALLEST_PROBABILITY
from onnxprune.torchnet.network import import_torch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss over rows, and how many rows are classified as wanted.

    With a teacher, every part of its outputs is compared as its meaning says, in the part's unit, and the parts are
    weighed. Class scores give `T^2 KL(p_T || q_T)` in nats, where `p_T` and `q_T` are the softmax of the teacher's and
    the model's scores divided by the temperature `T` (Hinton, Vinyals, Dean: "Distilling the knowledge in a neural
    network", 2015). With labels the loss is the cross-entropy; with both, a weighted sum.

    Attributes:
        meaning: of the outputs.
        teacher: the teacher's outputs on some rows, which settle units; None without a teacher.
        label_weight: share of the cross-entropy, in [0, 1].
        temperature: see above.
    """

    meaning: Meaning
    teacher: Reference | None
    label_weight: float
    temperature: float

    @property
    def name(self) -> str:
        """The loss's name in `FinetuneResult.loss`."""
        if self.teacher is None:
            return "cross-entropy"
        kind = "distillation" if any(part.classifies for part in self.meaning.parts) else "regression"
        return kind + ("+labels" if self.label_weight else "")

    @property
    def classifies(self) -> bool:
        """Whether each row as a whole belongs to one class."""
        return self.meaning.classifier is not None

    def loss(self, outputs: Mapping[str, Any], wanted: Mapping[str, Any] | None, labels: "torch.Tensor | None") -> Any:
        """The mean loss of a batch.

        Args:
            outputs: the model's, by name.
            wanted: the teacher's, by the same names.
            labels: `(rows,)` class numbers.
        """
        total: Any = 0.0
        if wanted is not None and self.label_weight < 1:
            total = total + (1 - self.label_weight) * self._divergence(outputs, wanted)
        part = self.meaning.classifier
        if labels is not None and part is not None and self.label_weight > 0:
            scores = self._log_softmax(part, self._values(part, outputs, classes=True), 1.0)[:, 0]
            total = total + self.label_weight * import_torch().nn.functional.nll_loss(scores, labels)
        return total

    def hits(
        self, outputs: Mapping[str, Any], wanted: Mapping[str, Any] | None, labels: "torch.Tensor | None"
    ) -> float:
        """Number of rows whose predicted class is the label (or the teacher's class); NaN without class scores."""
        part = self.meaning.classifier
        if part is None or (labels is None and wanted is None):
            return float("nan")
        predicted = self._values(part, outputs, classes=True)[:, 0].argmax(1)
        target = labels
        if target is None and wanted is not None:
            target = self._values(part, wanted, classes=True)[:, 0].argmax(1)
        return float((predicted == target).sum())

    def _divergence(self, outputs: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
        torch = import_torch()
        assert self.teacher is not None
        total: Any = 0.0
        for number, part in enumerate(self.meaning.parts):
            a, b = self._values(part, wanted), self._values(part, outputs)
            unit = torch.as_tensor(self.teacher.units[number], dtype=b.dtype, device=b.device)
            if part.kind == "classes":
                p, q = (self._log_softmax(part, values, self.temperature) for values in (a, b))
                divergence = self.temperature**2 * (p.exp() * (p - q)).sum(2).mean() / unit
            elif part.kind == "probabilities":
                p, q = (values.clamp(SMALLEST_CHANCE, 1 - SMALLEST_CHANCE) for values in (a, b))
                binary = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
                divergence = binary.sum((1, 2)).mean() / unit
            elif part.kind == "embedding":
                divergence = (1 - torch.nn.functional.cosine_similarity(a, b, dim=2)).mean() / unit
            elif part.kind == "quantities":
                square = ((a - b).square() / unit.clamp(min=SMALLEST_PROBABILITY)).mean(2)
                divergence = (square * self._weights(number, wanted)).mean()
            else:
                continue
            total = total + self.meaning.weights[number] * divergence.sum()
        return total

    def _weights(self, number: int, wanted: Mapping[str, Any]) -> Any:
        """Weight of each position of quantities, as in `outputs.divergence.Reference`."""
        assert self.teacher is not None
        mean = self.teacher.confidences[number]
        if not mean:
            return 1.0
        torch = import_torch()
        scores = [self.meaning.parts[beside] for beside in self.meaning.parts[number].confidence]
        confidences = [self._values(score, wanted) for score in scores]
        sure = [
            values.amax(2)
            if score.kind == "probabilities"
            else 1 - self._log_softmax(score, values, 1.0).exp()[..., self.teacher.usual_class(score)]
            for score, values in zip(scores, confidences, strict=True)
        ]
        return (torch.stack(sure).amin(0) / mean + FLOOR) / (1 + FLOOR)

    def _values(self, part: Part, outputs: Mapping[str, Any], *, classes: bool = False) -> Any:
        """`Part.values` in torch; with `classes`, one probability `p` becomes two classes `1 - p, p`."""
        torch = import_torch()
        axis = self.meaning.row_axes[part.output]
        array = outputs[part.output]
        array = array[None] if axis is None or array.dim() <= axis else array.movedim(axis, 0)
        if part.axis == 0 or array.dim() < 2:
            flat = array.flatten(1) if array.dim() > 1 else array[:, None]
            array = flat[..., None] if part.columns is None else flat[:, None, list(part.columns)]
        else:
            array = array.movedim(part.axis, -1)
            array = array if part.columns is None else array[..., list(part.columns)]
            array = array.flatten(1, -2) if array.dim() > 2 else array[:, None]
        if part.is_scaled:
            array = (array - part.shift) / part.scale
        array = array.sigmoid() if part.is_sigmoid_missing else array
        return torch.cat([1 - array, array], 2) if classes and array.shape[2] == 1 else array

    def _log_softmax(self, part: Part, scores: Any, temperature: float) -> Any:
        if part.form == "probabilities" or part.kind == "probabilities":
            scores = scores.clamp(min=SMALLEST_PROBABILITY).log()
        return (scores / temperature).log_softmax(-1)


def choose_objective(
    name: str, meaning: Meaning, labels: Any, classes: int | None, teacher: Reference | None, config: FinetuneConfig
) -> Objective:
    """Choose the loss from the teacher, labels and options.

    Args:
        name: the model's, for messages.
        meaning: of its outputs.
        labels: `(rows,)` class numbers, or None.
        classes: number of class scores, None where there are none.
        teacher: the teacher's outputs on some rows; None without a teacher.
        config: options.

    Raises:
        InputError: neither a teacher nor labels, or labels that do not fit the outputs.
    """
    weight = config.label_weight if teacher is not None else 1.0
    if weight > 1:
        raise InputError(f"label-weight is a share: {weight:g} is above 1")
    if config.temperature <= 0:
        raise InputError("the temperature must be above 0")
    objective = Objective(meaning, teacher, weight, config.temperature)
    if not weight:
        if all(part.kind == "labels" for part in meaning.parts):
            raise InputError(f"{name} has no floating-point output that could be matched to a teacher's")
        return objective
    if labels is None:
        raise InputError(
            "the rows have no labels to train by, one class number a row: give these (y), or a teacher to learn from "
            "(--teacher)"
        )
    if not objective.classifies or classes is None:
        raise InputError(f"{name} has no class scores that labels could train; give a teacher instead (--teacher)")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels run from {labels.min()} to {labels.max()}, but {name} has {classes} class scores")
    return objective
