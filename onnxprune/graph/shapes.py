"""Concrete shapes of all tensors, which axes depend on the input sizes, and the values of shape computations.

Symbolic dimensions are pinned (batch to 1, others to a given or guessed size) before shape inference, so that every
width that labels need is a number. Inference runs again with other sizes: an axis, or an element of shape arithmetic,
that comes out the same at both sizes does not depend on them and is a constant of the graph. The pinned sizes never
reach a written file.

Behind an operator that onnx does not know, shapes are what the file declares, or what onnxruntime finds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod

import numpy as np
import onnx

from onnxprune.core.errors import SizesError
from onnxprune.core.text import first_line
from onnxprune.graph.folding import fold_constants, fold_shapes, fold_weights, read_shapes, transparent
from onnxprune.graph.inference import FAILURES, declared, infer, not_inferred, pinned_shape, symbolic_axes
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.operators import OpenShapes, Operators, Runtime, Seen, Shape

# Sizes tried for symbolic dimensions other than the batch: image-like first, then sequence-like.
GUESSES = (64, 224, 512, 320, 16, 1)
# And where none of these fits: windows over sound are long.
_LONG = (4096, 65536)
# How many sizes that the model spells out are tried after these.
_SPELT_OUT = 8
_ROUNDS = 64  # sizes that follow from sizes that follow from others: a chain of as many Shape and Slice nodes
_WHOLE = "other sizes, or, where the first axis of an input counts no rows but steps, arrays of one axis more"
# Runs in onnxruntime at most, to find sizes that the model takes.
_RUNS = 3
_MOST_VALUES = 1 << 40  # of an input


@dataclass(frozen=True, slots=True)
class Sizes:
    """An integer tensor computed from shapes that depends on the input: its value, and which elements vary (`free`)."""

    value: np.ndarray
    free: np.ndarray


@dataclass(frozen=True, slots=True)
class Facts:
    """Shapes, types and constant values of all tensors.

    Attributes:
        shapes: concrete shape per tensor; a tensor of unknown rank or width is absent.
        dtypes: ONNX element type per tensor.
        folded: value per tensor that nodes compute from constants and from widths that are fixed.
        batch: the pinned batch size (1, or the fixed one of the first input).
        free: axes whose size varies with the graph's inputs, per tensor that has some.
        sizes: integer tensors with elements that vary with the sizes of the graph's inputs.
        read: per tensor of `folded`, the tensors whose shape its value depends on.
        transparent: tensors of `folded` that stay computed in the file (a quantised or half-precision weight).
    """

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, int]
    folded: Mapping[str, np.ndarray]
    batch: int
    free: Mapping[str, frozenset[int]] = field(default_factory=dict)
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    read: Mapping[str, frozenset[str]] = field(default_factory=dict)
    transparent: frozenset[str] = frozenset()

    def is_folded(self, node: Node) -> bool:
        """Whether all outputs of a node are constants, so that the file does not need the node."""
        return bool(node.outputs) and all(o in self.folded and o not in self.transparent for o in node.outputs if o)


@dataclass(frozen=True, slots=True)
class _Pinned:
    """Everything that is inferred for one choice of input shapes.

    Attributes:
        inputs: the shapes chosen.
        shapes: per tensor.
        dtypes: per tensor.
        values: of what is computed from shapes.
        given: shapes that inference could not tell.
    """

    inputs: Mapping[str, Shape]
    shapes: dict[str, Shape]
    dtypes: dict[str, int]
    values: dict[str, np.ndarray]
    given: Mapping[str, Seen]


def infer_facts(
    model: Model,
    graph: Graph,
    operators: Operators,
    input_shapes: OpenShapes | None = None,
    runtime: Runtime | None = None,
) -> Facts:
    """Infer the shapes of all tensors at concrete input sizes, and compute all constant values.

    Called through `ops.facts.gather_facts`, which knows the operators.

    Args:
        model: the model.
        graph: its nodes.
        operators: asked what an operator is.
        input_shapes: shapes of the inputs as far as they are told; other sizes are guessed.
        runtime: asked for what inference and folding cannot tell; without it, that stays unknown.

    Raises:
        SizesError: shape inference finds a contradiction for every size tried.
    """
    pins = _Pins(model, graph, operators, fold_constants(model, graph, operators, runtime), runtime)
    first = pins.first(input_shapes or {})
    others = pins.others(first)
    shapes, folded = dict(first.shapes), dict(pins.constants)
    symbolic: dict[str, frozenset[int]] = {}
    for name, shape in first.shapes.items():
        seen_shapes = [other.shapes.get(name, ()) for other in others]
        varying = {a for a, size in enumerate(shape) if any(s[a : a + 1] != (size,) for s in seen_shapes)}
        if varying:
            symbolic[name] = frozenset(varying)
    sizes: dict[str, Sizes] = {}
    for name, value in first.values.items():
        seen = [other.values.get(name) for other in others]
        # Floating-point results of sizes stay computed: they are no weights, and what they are made of is kept.
        if value.dtype.kind not in "iub" or any(v is None or v.shape != value.shape for v in seen):
            continue
        varies = np.zeros(value.shape, bool)
        for other in seen:
            varies |= np.asarray(other != value)
        if not varies.any():
            folded[name] = value
        elif value.dtype.kind == "i":
            sizes[name] = Sizes(value, varies)
    if folded.keys() > pins.constants.keys():
        folded |= fold_weights(model, graph, operators, folded, runtime)
    for name, array in (*model.constants.items(), *folded.items()):
        shapes[name] = array.shape
        symbolic.pop(name, None)
    leading = first.inputs.get(graph.inputs[0], ()) if graph.inputs else ()
    return Facts(
        shapes=shapes,
        dtypes=first.dtypes,
        folded=folded,
        batch=leading[0] if len(leading) > 1 else 1,
        free=symbolic,
        sizes=sizes,
        read=read_shapes(graph, first.values, folded, operators),
        transparent=transparent(model, graph, folded, operators),
    )


class _Pins:
    """Infers the shapes of one model for several choices of input sizes."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        operators: Operators,
        constants: dict[str, np.ndarray],
        runtime: Runtime | None,
    ) -> None:
        self._model, self._graph, self._operators, self._runtime = model, graph, operators, runtime
        self.constants = constants
        self._inputs = [value for value in model.proto.graph.input if value.name in graph.inputs]
        self._symbolic = {v.name: axes for v in self._inputs if (axes := symbolic_axes(v))}
        self._strict = True

    def first(self, known: OpenShapes) -> _Pinned:
        """Inference with the first guessed sizes that give every tensor a shape, or else the most tensors."""
        tried = self._choices(known, guesses(self._model))
        failure, inferred = self._tried(tried)
        if not inferred:
            inferred = self._tried(self._choices(known, (*_LONG, *_features(self._model))))[1]
        if not inferred and self._runtime is not None:
            # Strict inference also fails at operators that it cannot handle: onnxruntime says whether the sizes fit.
            self._strict = False
            inferred = [*islice(filter(self._runs, self._tried(tried)[1][:_RUNS]), 1)]
        if not inferred:
            reason = first_line(failure) if failure else "no input shape fits"
            if self._symbolic:
                reason += "; give " + (_WHOLE if known else "the sizes of its inputs (--shape)")
            raise SizesError(f"{self._model.name}: shapes contradict each other: {reason}")
        inferred.sort(key=lambda pins: -len(pins.shapes))
        completed = []
        for pins in inferred[:_RUNS]:
            completed.append(self._completed(pins))
            if not self._missing(completed[-1]):
                return completed[-1]
        return max(completed, key=lambda pins: len(pins.shapes))

    def _choices(self, known: OpenShapes, sizes: Sequence[int]) -> list[dict[str, Shape]]:
        """The different shapes of the inputs at these sizes of what is not known."""
        pinned = [{v.name: self._pinned(v, known.get(v.name), size) for v in self._inputs} for size in sizes]
        for name, shape in pinned[0].items():
            if shape is not None and prod(shape) > _MOST_VALUES:  # inference itself would ask for that much
                raise SizesError(
                    f"{self._model.name}: input {name!r} of shape {'x'.join(map(str, shape))} has more values than any "
                    "memory holds; give its sizes (--shape)"
                )
        different = [entry for index, entry in enumerate(pinned) if entry not in pinned[:index]]
        return [{name: shape for name, shape in entry.items() if shape is not None} for entry in different]

    def _pinned(self, value: onnx.ValueInfoProto, known: tuple[int | None, ...] | None, guess: int) -> Shape | None:
        """Sizes that the file fixes, then known ones: rows of another batch are regrouped to that of the file."""
        guessed = pinned_shape(value, guess)
        if known is None:
            return guessed
        if guessed is None or len(known) != len(guessed):
            return tuple(guess if size is None else size for size in known)
        symbolic = self._symbolic.get(value.name, frozenset())
        told = [size if axis not in symbolic else known[axis] for axis, size in enumerate(guessed)]
        return tuple(size if own is None else own for own, size in zip(told, guessed, strict=True))

    def _runs(self, pins: _Pinned) -> bool:
        return self._runtime is not None and bool(self._runtime.shapes(pins.inputs, self._graph.outputs))

    def _missing(self, pins: _Pinned) -> list[str]:
        return not_inferred(self._model, self._graph, pins.shapes, strict=self._strict)

    def _tried(self, choices: list[dict[str, Shape]]) -> tuple[Exception | None, list[_Pinned]]:
        failure: Exception | None = None
        inferred = []
        for inputs in choices:
            try:
                inferred.append(self._settle(inputs, {}))
            except FAILURES as error:
                failure = error
                continue
            if not self._unknown(inferred[-1].shapes):
                break
        return failure, inferred

    def _completed(self, pins: _Pinned) -> _Pinned:
        """Add shapes that inference does not find, from the file or from onnxruntime."""
        # Numbers that a file declares may be left from before its inputs' sizes became free.
        sources = (self._observed, self._declared) if self._symbolic else (self._declared, self._observed)
        for source in sources:
            missing = self._missing(pins)
            given = source(pins, missing) if missing else {}
            if given:
                with suppress(*FAILURES):
                    pins = self._settle(pins.inputs, {**pins.given, **given})
        return pins

    def _declared(self, pins: _Pinned, missing: list[str]) -> Mapping[str, Seen]:
        return declared(self._model, pins.inputs, missing)

    def _observed(self, pins: _Pinned, missing: list[str]) -> Mapping[str, Seen]:
        return {} if self._runtime is None else self._runtime.shapes(pins.inputs, missing)

    def others(self, first: _Pinned) -> list[_Pinned]:
        """Inference with other input sizes; the comparison shows which axes depend on the input.

        All symbolic dimensions change at once, or, where no such size fits the graph, the batch and the others in turn.
        """
        by_data = self._data_varied(first)
        symbolic = {name: axes for name, axes in self._symbolic.items() if name in first.inputs}
        if not symbolic:
            return by_data
        every, batches, spaces = (
            _varied(first.inputs, symbolic, batch=batch, spatial=spatial)
            for batch, spatial in ((True, True), (True, False), (False, True))
        )
        for attempt in ([every], [entry for entry in (batches, spaces) if entry != first.inputs]):
            varied = [pins for inputs in attempt if (pins := self._at(inputs, first)) is not None]
            if varied:
                return [*by_data, *varied]
        # No other size fits: what inference cannot tell without pins counts as varying.
        try:
            unpinned = self._settle({}, {}, rounds=1)
        except FAILURES as error:
            raise SizesError(f"{self._model.name}: shapes contradict each other: {first_line(error)}") from error
        return [*by_data, replace(unpinned, inputs=first.inputs)]

    def _at(self, inputs: Mapping[str, Shape], first: _Pinned) -> _Pinned | None:
        try:
            pins = self._settle(inputs, {})
        except FAILURES:
            return None
        return self._completed(pins) if first.given else pins

    def _data_varied(self, first: _Pinned) -> list[_Pinned]:
        """The same input sizes, with other sizes for axes that depend on the data's values."""
        if not any(seen.varies for seen in first.given.values()):
            return []
        other = {
            name: replace(seen, shape=tuple(size + (axis in seen.varies) for axis, size in enumerate(seen.shape)))
            for name, seen in first.given.items()
        }
        try:
            return [self._settle(first.inputs, other)]
        except FAILURES:
            return [self._settle(first.inputs, {})]

    def _unknown(self, shapes: Mapping[str, Shape]) -> bool:
        return any(name and name not in shapes for node in self._graph.nodes for name in node.outputs)

    def _settle(self, inputs: Mapping[str, Shape], given: Mapping[str, Seen], rounds: int = _ROUNDS) -> _Pinned:
        """Alternate shape inference and constant folding until nothing new is found."""
        model, graph, operators = self._model, self._graph, self._operators
        values: dict[str, np.ndarray] = {}
        shapes: dict[str, Shape] = {}
        dtypes: dict[str, int] = {}
        for _ in range(rounds):
            known = {**self.constants, **values}
            shapes, dtypes = infer(model, operators, known, inputs, given, strict=self._strict)
            fresh = fold_shapes(model, graph, operators, known, shapes)
            values.update(fresh)
            if not fresh or not self._unknown(shapes):
                break
        every = {**model.constants, **self.constants, **values}
        for node in graph.nodes:
            if not operators(node.op_type).fits(node, shapes, every):
                raise ValueError(f"{node} cannot run on inputs of these sizes")
        return _Pinned(inputs, shapes, dtypes, values, given)


def guesses(model: Model) -> tuple[int, ...]:
    """Sizes to try for symbolic dimensions other than the batch: usual ones, then those in the model's size vectors.

    Exporters that trace a run write the sizes of that run into some of these vectors.
    """
    vectors = (a for a in model.constants.values() if a.dtype.kind == "i" and a.ndim == 1 and a.size <= _SPELT_OUT)
    found = Counter(size for vector in vectors for size in vector.tolist() if 1 < size <= max(GUESSES))
    spelt_out = [size for size, _ in found.most_common() if size not in GUESSES]
    return (*GUESSES, *spelt_out[:_SPELT_OUT])


def _features(model: Model) -> list[int]:
    """Sizes to try where usual ones do not fit: those of the model's matrices, one of which may read the input."""
    matrices = (array.shape for array in model.constants.values() if array.dtype.kind == "f" and array.ndim == 2)
    return [*dict.fromkeys(size for shape in matrices for size in shape if size > 1)][:_SPELT_OUT]


def _varied(
    inputs: Mapping[str, Shape], symbolic: Mapping[str, frozenset[int]], *, batch: bool, spatial: bool
) -> dict[str, Shape]:
    """Different input sizes: one more in the batch, and another factor for each other axis, so that ratios change."""
    return {
        name: tuple(
            size
            if axis not in symbolic.get(name, ())
            else size + batch
            if size == 1 or axis == 0
            else size * (1 + axis if spatial else 1)
            for axis, size in enumerate(shape)
        )
        for name, shape in inputs.items()
    }
