"""Recognises from the graph what each output holds: class scores, probabilities, quantities, embeddings or labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxprune.config import OutputConfig
from onnxprune.core.errors import InputError
from onnxprune.core.memory import require
from onnxprune.outputs.beside import BOX, with_confidence, with_coordinates, with_names
from onnxprune.outputs.given import IGNORED, kinds_said, named_in, weights_said
from onnxprune.outputs.meaning import Form, Kind, Meaning, Part
from onnxprune.outputs.nature import OTHER, Nature, nature
from onnxprune.outputs.numbers import FLOATS, chosen_from, rounded
from onnxprune.outputs.rows import row_axis
from onnxprune.outputs.selected import in_front
from onnxprune.outputs.sets import sets_of
from onnxprune.outputs.sources import Path, Source
from onnxprune.outputs.unrounded import unrounded
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer

_SPELLED_OUT: dict[str, tuple[Kind, Form]] = {
    "probabilities": ("probabilities", "probabilities"),
    "distribution": ("classes", "probabilities"),
    "log_distribution": ("classes", "log_probabilities"),
    "unit": ("embedding", "logits"),
    "bounded": ("quantities", "logits"),
}
# A softmax trained with cross-entropy does not feel what all classes have in common: training leaves the sum of the
# last layer's weights over classes where it was, and weight decay takes it to 0. Of unrelated columns, the squared norm
# of the sum is about that of the weights; of columns that rise and fall together (coordinates) it is many times that.
# Where that sum tells nothing, a bias does: classes differ in how frequent they are, while projections to many features
# (embeddings) mostly go without.
_CLASSES_SUM = 0.3
_COORDINATES_SUM = 10.0
_FEATURES = 32
_DROPPED = -1


def read_meaning(analysis: Analysis, config: OutputConfig | None = None, *, sorted_too: bool = True) -> Meaning:
    """Recognise what each output of a model holds.

    Those of floating-point type are compared, or all tensors where there are none; in place of outputs that are
    selected by value, what they are selected from; sorted ones stay where the user says what they hold.

    Args:
        analysis: of the model.
        config: what the user says of them.
        sorted_too: whether that includes outputs whose order alone values decide.

    Raises:
        InputError: the user names an output or a kind that does not exist, or leaves nothing to compare.
    """
    config, analysis = config or OutputConfig(), unrounded(analysis)
    tensors = [value for value in analysis.model.proto.graph.output if value.type.HasField("tensor_type")]
    said = kinds_said(config, analysis)
    tensors = [value for value in tensors if said.get(value.name) != IGNORED]
    if not tensors:
        raise InputError(f"{analysis.name}: all outputs are ignored; there is nothing to compare")
    fronts = in_front([value.name for value in tensors], analysis, said, sorted_too=sorted_too)
    weighed = named_in(config.weights, "--output-weight", analysis)
    for flag, name in (*(("--output", name) for name in said), *(("--output-weight", name) for name in weighed)):
        if name in fronts:
            at = " and ".join(map(repr, fronts[name])) or "another output"
            raise InputError(
                f"{flag} {name}: what it holds is selected by value, so that models are compared at {at}, which it is "
                f"selected from; say nothing of it, or {name}={IGNORED}"
            )
    plain = [value for value in tensors if value.name not in fronts]
    floats = [value.name for value in plain if value.type.tensor_type.elem_type in FLOATS]
    floats = [*dict.fromkeys((*floats, *(name for front in fronts.values() for name in front)))]
    numbers = [value.name for value in plain if value.name not in floats]
    floats += [*(name for name in numbers if name in said), *rounded(numbers, floats, analysis)]
    floats = [*dict.fromkeys(floats)]
    chosen = filter(None, (chosen_from(name, analysis) for name in fronts))
    axes = {scores.tensor: scores.axis for scores in chosen}
    parts: Sequence[Part] = [Part(value.name, "labels", axis=0) for value in tensors]
    if floats:
        outputs = [_Output(name, analysis) for name in floats]
        spelled_out = any(output.has_scores for output in outputs)
        read: list[Part] = []
        for output in outputs:
            kind = said.get(output.name)
            recognised = [*output.parts(alone=len(outputs) == 1, spelled_out=spelled_out)]
            if output.name in axes and not any(part.kind in ("classes", "probabilities") for part in recognised):
                recognised = [output.classes_along(axes[output.name])]
            read += recognised if kind is None else [output.whole(kind)]
        logits = {output.name: kind for output in outputs if (kind := output.if_scores) and output.name not in said}
        named = {output.name for output in outputs if output.is_named_scores}
        apart = with_names(with_coordinates(read, logits, named), named)
        parts = [part if part.output in said else told for part, told in zip(read, apart, strict=True)]
    names = dict.fromkeys(part.output for part in parts)
    weights = weights_said(config, analysis, [*names])
    parts = with_confidence(parts, fronts.values())
    return Meaning(
        row_axes={name: row_axis(name, analysis) for name in names},
        parts=parts,
        sets=sets_of(parts, analysis),
        weights=tuple(weights[part.output] / sum(other.output == part.output for other in parts) for part in parts),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A part of an output that is recognised so far. Axes count within one row of the output, from 0.

    Attributes:
        nature: of its values.
        mask: where in a row they lie.
        sources: what makes them.
    """

    nature: Nature
    mask: np.ndarray
    sources: tuple[Source, ...]


class _Output:
    """One output while it is examined."""

    def __init__(self, name: str, analysis: Analysis) -> None:
        self.name = name
        self._analysis = analysis
        self.row_axis = row_axis(name, analysis)
        shape = analysis.facts.shapes.get(name, ())
        require(prod(shape), f"output {name!r}")
        self._shape = self._row(np.broadcast_to(True, shape)).shape
        self._found = self._parts()

    @property
    def has_scores(self) -> bool:
        """Whether the model turns some of this output's values into probabilities (by softmax or sigmoid)."""
        return any(part.nature.kind in ("probabilities", "distribution", "log_distribution") for part in self._found)

    def parts(self, *, alone: bool, spelled_out: bool) -> Iterator[Part]:
        """The parts of the output, each with the kind of its values.

        Args:
            alone: whether it is the model's only output.
            spelled_out: whether some output of the model shows its scores as probabilities.
        """
        for candidate in self._found:
            kind, form = _SPELLED_OUT.get(candidate.nature.kind, ("quantities", "logits"))
            if (
                candidate.nature == OTHER
                and not spelled_out
                and candidate.mask.all()
                and self._are_classes(candidate, alone)
            ):
                kind = "classes"
            yield self._part(candidate, kind, form)

    def whole(self, kind: Kind) -> Part:
        """The whole output as one part, of the kind that the user named."""
        recognised = next(
            (f for f in self._found if f.mask.all() and _SPELLED_OUT.get(f.nature.kind, ("",))[0] == kind), None
        )
        form: Form = "logits" if recognised is None else _SPELLED_OUT[recognised.nature.kind][1]
        if kind == "probabilities" and not self._is_linear:
            form = "probabilities"
        return self._part(recognised or _Found(OTHER, np.ones(self._shape, bool), ()), kind, form)

    def classes_along(self, axis: int) -> Part:
        """The whole output as class scores along one of its axes."""
        along = axis - (self.row_axis is not None and self.row_axis < axis)
        positions = tuple(size for other, size in enumerate(self._shape) if other != along)
        return Part(self.name, "classes", axis=along + 1, width=self._shape[along], positions=positions)

    @property
    def if_scores(self) -> Kind | None:
        """What the output's values are if they are scores: logits of classes or independent ones; None for others."""
        if not self._is_linear or len(self._found) > 1:
            return None
        sums = [self._sum_of_columns(source.tensor) for source in self._found[0].sources]
        return "classes" if max(filter(None, sums), default=1.0) < _CLASSES_SUM else "probabilities"

    @property
    def is_named_scores(self) -> bool:
        """Whether the name says that a layer's channels are scores; of an embedding's weights nothing else tells."""
        channels = self._channels(self.name)
        return self.name.casefold().endswith("logits") and self._is_linear and channels not in (None, _DROPPED)

    @property
    def _is_linear(self) -> bool:
        """Whether all values come from layers without a function behind them."""
        sources = [source for found in self._found for source in found.sources]
        return bool(sources) and all(self._layer(source.tensor) is not None for source in sources)

    def _part(self, candidate: _Found, kind: Kind, form: Form) -> Part:
        whole, along = bool(candidate.mask.all()), candidate.nature.has_axis
        axis = candidate.nature.axis if along else self._column_axis() if whole else _dividing_axis(candidate.mask)
        part = Part(self.name, kind, axis=0 if axis is None else axis + 1, form=form)
        if axis is not None or whole:
            sizes = tuple(size for index, size in enumerate(self._shape) if index != axis)
            part = replace(part, positions=sizes, width=1 if axis is None else self._shape[axis])
        if not whole:
            places = np.flatnonzero(candidate.mask).tolist() if axis is None else _columns(candidate.mask, axis)
            part = replace(part, columns=tuple(places), width=len(places))
        if candidate.sources and (kind == "probabilities" or along):
            part = replace(part, scale=candidate.sources[0].scale, shift=candidate.sources[0].shift)
        return part

    def _row(self, array: np.ndarray) -> np.ndarray:
        """The first row of an array that has the output's shape."""
        return array if self.row_axis is None or not array.ndim else np.moveaxis(array, self.row_axis, 0)[0]

    def _parts(self) -> list[_Found]:
        path = Path(self.name, self._analysis)
        groups: dict[object, _Found] = {}
        for source in path.sources():
            source_nature, mask = self._in_output(source, path), self._row(source.mask)
            key: object = "quantities"  # centres of boxes may be free, and their sizes bounded
            if source_nature.kind == "probabilities":
                key = (source_nature, source.scale, source.shift)
            elif source_nature.has_axis:
                key = (source_nature, _columns(mask, source_nature.axis))
            if key in groups:
                before = groups[key]
                both = before.nature if before.nature == source_nature else Nature("bounded")
                groups[key] = _Found(both, mask | before.mask, (*before.sources, source))
            else:
                groups[key] = _Found(source_nature, mask, (source,))
        beside = len(groups) > 1
        return [
            part
            for key, found in groups.items()
            for part in (self._without_boxes(found) if beside and key == "quantities" else [found])
        ]

    def _without_boxes(self, found: _Found) -> list[_Found]:
        """Quantities beside scores in two: four columns that are a box, and others elsewhere (of a mask, of a face)."""
        axis = _dividing_axis(found.mask)
        columns = [] if axis is None else _columns(found.mask, axis)
        breaks = [at for at in range(1, len(columns)) if columns[at] != columns[at - 1] + 1]
        if axis is None or len(breaks) != 1 or BOX not in (breaks[0], len(columns) - breaks[0]):
            return [found]
        along = np.arange(found.mask.shape[axis]).reshape([-1 if a == axis else 1 for a in range(found.mask.ndim)])
        masks = (found.mask & (along < columns[breaks[0]]), found.mask & (along >= columns[breaks[0]]))
        rows = [(self._row(source.mask), source) for source in found.sources]
        return [_Found(found.nature, m, tuple(source for own, source in rows if (own & m).any())) for m in masks]

    def _in_output(self, source: Source, path: Path) -> Nature:
        """What a source tensor's values are, with their axis counted in the output's row.

        `OTHER` where they do not reach the output as a whole.
        """
        source_nature = nature(source.tensor, self._analysis)
        if not source.is_even:
            return OTHER
        if not source_nature.has_axis:
            return source_nature
        at, mask = self._row(path.coordinates(source, source_nature.axis)), self._row(source.mask)
        size = self._analysis.facts.shapes[source.tensor][source_nature.axis]
        for axis in range(at.ndim):
            columns = _columns(mask, axis)
            chosen = np.moveaxis(at, axis, -1)[..., list(columns)]
            if len(columns) == size and (np.sort(chosen, axis=-1) == np.arange(size)).all():
                return Nature(source_nature.kind, axis)
        return Nature("probabilities") if source_nature.kind == "distribution" else OTHER

    def _channels(self, tensor: str) -> int | None:
        """The axis of a tensor that holds the channels of the layer behind it.

        None where none is known, `_DROPPED` where a single channel has no axis any more.
        """
        path = Path(tensor, self._analysis)
        source, shapes = path.sources()[0], self._analysis.facts.shapes
        source_nature, layer = nature(source.tensor, self._analysis), self._layer(source.tensor)
        axis = None if layer is None else layer.output_axis
        if source_nature.entry and shapes.get(source_nature.entry) == shapes.get(source.tensor):
            axis = self._channels(source_nature.entry)
        if axis is None or axis == _DROPPED or source.tensor == tensor:
            return axis
        shape = shapes[tensor]
        if shapes[source.tensor][axis] == 1:
            rows = row_axis(tensor, self._analysis)
            return next(
                (candidate for candidate, size in enumerate(shape) if size == 1 and candidate != rows), _DROPPED
            )
        at = path.coordinates(source, axis)
        for candidate, size in enumerate(shape):
            neighbours = np.take(source.mask, range(1, size), candidate) & np.take(
                source.mask, range(size - 1), candidate
            )
            if neighbours.any() and (np.diff(at, axis=candidate)[neighbours] == 1).all():
                return candidate
        return None

    def _column_axis(self) -> int | None:
        """The axis along which the columns of a row lie (channels, coordinates), guessed where unknown.

        That is a single place beside one or two axes of positions, or the shorter end.
        """
        if len(self._shape) < 2:
            return 0 if self._shape else None
        known = self._channels(self.name)
        if known == _DROPPED:
            return None
        if known is not None and known != self.row_axis:
            return known - (self.row_axis is not None and self.row_axis < known)
        wide = [axis for axis, size in enumerate(self._shape) if size > 1] or [0]
        if len(wide) == len(self._shape) - 1 and wide in ([0], [0, 1], [1, 2]):
            return self._shape.index(1)
        return min((wide[-1], wide[0]), key=lambda axis: self._shape[axis])

    def _layer(self, tensor: str) -> Layer | None:
        return next((layer for layer in self._analysis.layers if layer.output == tensor), None)

    def _are_classes(self, candidate: _Found, alone: bool) -> bool:
        """Whether values are class scores (logits) although no softmax follows in the model."""
        sums = [self._sum_of_columns(source.tensor) for source in candidate.sources]
        known = [value for value in sums if value is not None]
        small = bool(known) and len(known) == len(sums) and max(known) < _CLASSES_SUM
        wide = [size for size in self._shape if size > 1]
        if len(wide) != 1:
            return small and len(wide) > 1
        maker = self._analysis.facts.shapes.get(candidate.sources[0].tensor, ())
        is_map = sum(size > 1 for size in maker[1:]) > 1
        inputs = [self._analysis.facts.shapes.get(name, ())[1:] for name in self._analysis.graph.inputs]
        scaled_apart = not all(np.isfinite(source.scale) for source in candidate.sources)  # units of their own
        if is_map or scaled_apart or self._shape in inputs:
            return False
        features = prod(wide) >= _FEATURES and not self._has_bias(candidate.sources)
        return small or (alone and max(known, default=0.0) < _COORDINATES_SUM and not features)

    def _has_bias(self, sources: Sequence[Source]) -> bool:
        """Whether anything constant is added to the values on their way from the layers; unknown counts as yes."""
        layers = [self._layer(source.tensor) for source in sources]
        return any(
            layer is None or layer.bias is not None or source.offset[source.mask].any()
            for layer, source in zip(layers, sources, strict=True)
        )

    def _sum_of_columns(self, tensor: str) -> float | None:
        """`|sum_c w_c|^2 / sum_c |w_c|^2` over a layer's weight columns `w_c`; None without a layer."""
        layer = self._layer(tensor)
        if layer is None:
            return None
        weight = self._analysis.value(layer.weight)
        if weight is None:
            return None
        columns = np.moveaxis(np.asarray(weight, np.float64), layer.out_axis, -1)
        columns = columns.reshape(-1, columns.shape[-1])
        return float(np.square(columns.sum(axis=1)).sum() / max(np.square(columns).sum(), 1e-30))


def _columns(mask: np.ndarray, axis: int) -> tuple[int, ...]:
    """The positions along an axis at which a mask is True anywhere."""
    others = tuple(other for other in range(mask.ndim) if other != axis)
    return tuple(np.flatnonzero(mask.any(axis=others)).tolist())


def _dividing_axis(mask: np.ndarray) -> int | None:
    """The axis that alone decides whether a position belongs to a part; None where there is none."""
    for axis in range(mask.ndim):
        rows = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])
        if (rows == rows[0]).all():
            return axis
    return None
