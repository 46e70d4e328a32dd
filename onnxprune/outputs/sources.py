"""Traces an output back to the tensors that compute its values, through operators that only move or scale them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx

from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.nodes import Node
from onnxprune.graph.subgraph import subgraph
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis

_MOST_SOURCES = 64
_MOST_ELEMENTS = 1 << 24
_UNEVEN = 1e-3


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor whose values reach an output as `factor * value + offset`, at the positions where `mask` is True.

    Attributes:
        tensor: its name; the output's own where its values are computed at once.
        mask: of the output's shape.
        factor: the same.
        offset: the same.
    """

    tensor: str
    mask: np.ndarray
    factor: np.ndarray
    offset: np.ndarray

    @property
    def scale(self) -> float:
        """The factor; nan where it differs from place to place."""
        return _even(self.factor, self.mask)

    @property
    def shift(self) -> float:
        """The offset; nan where it differs from place to place."""
        return _even(self.offset, self.mask)

    @property
    def is_even(self) -> bool:
        """Whether factor and offset are the same everywhere."""
        return bool(np.isfinite(self.scale) and np.isfinite(self.shift))

    def pieces(self) -> list["Source"]:
        """The same in two parts, where it reaches some columns along an axis as it is, and is scaled elsewhere.

        So where one sigmoid makes the scores of a detector and, on a grid, the centres of its boxes. A bias alone, 0 in
        places, divides nothing.
        """
        if np.isfinite(self.scale):
            return [self]
        as_it_is = (np.abs(self.factor - 1) < _UNEVEN) & (np.abs(self.offset) < _UNEVEN)
        for axis in sorted(range(self.mask.ndim), key=lambda axis: self.mask.shape[axis]):
            others = tuple(other for other in range(self.mask.ndim) if other != axis)
            columns = self.mask.any(axis=others, keepdims=True)
            columns &= (as_it_is | ~self.mask).all(axis=others, keepdims=True)
            if columns.any():
                return [replace(self, mask=self.mask & part) for part in (columns, ~columns)]
        return [self]


class Path:
    """The nodes between an output and the tensors its values come from, which only move and scale values.

    Args:
        output: the output.
        analysis: of the model.
    """

    def __init__(self, output: str, analysis: Analysis) -> None:
        self.output = output
        self._analysis, self._model, self._facts = analysis, analysis.model, analysis.facts
        self._nodes: dict[str, Node] = {}
        self.starts: list[str] = []
        self.computed = False  # whether places are picked that only a run tells
        waiting = [output]
        while waiting:
            tensor = waiting.pop()
            node = analysis.graph.producer.get(tensor)
            carried = [] if node is None else self._carried(node, tensor)
            if node is not None and carried:
                self.computed |= any(self._is_computed(name) for name in node.inputs if name not in carried)
                if node.name not in self._nodes:
                    self._nodes[node.name] = node
                    waiting += carried
            elif tensor not in self.starts:
                self.starts.append(tensor)
        self.starts.reverse()

    def _carried(self, node: Node, tensor: str) -> list[str]:
        """The inputs whose values a node passes on; none where it computes something new from them."""
        handler = handler_of(node.op_type)
        if node.captured:
            return []
        moved = [node.input(position) for position in handler.moves(node)]
        if moved:
            return (
                [name for name in moved if name and self._analysis.value(name) is None]
                if tensor in node.outputs
                else []
            )
        computed = [
            position for position, name in enumerate(node.inputs) if name and self._analysis.value(name) is None
        ]
        return [node.input(p) for p in computed if len(computed) == 1 and p in handler.scales(node)]

    def _is_computed(self, name: str) -> bool:
        return bool(name) and self._analysis.pinned_value(name) is None

    def sources(self) -> list[Source]:
        """The tensors that the output's values come from, and how these are scaled on the way.

        The output itself where that cannot be found out.
        """
        shape = self._facts.shapes.get(self.output, ())
        one, zero = np.broadcast_to(1.0, shape), np.broadcast_to(0.0, shape)  # of an image they would be large
        whole = [Source(self.output, np.broadcast_to(True, shape), one, zero)]
        if not self._nodes:
            return whole
        known = [self._facts.shapes.get(name) for name in self.starts]
        if None in known or len(known) > _MOST_SOURCES or sum(prod(s or ()) for s in known) > _MOST_ELEMENTS:
            return whole
        try:
            base = self.run({})
            ones = [self.run({name: np.ones(self._facts.shapes[name])}) for name in self.starts]
        except ModelError:
            return whole
        sources = []
        for name, values in zip(self.starts, ones, strict=True):
            mask = values != base
            if values.shape != shape or not mask.any():
                continue
            sources += Source(name, mask, values - base, base).pieces()
        return sources or whole

    def coordinates(self, source: Source, axis: int) -> np.ndarray:
        """For each value of the output, its index along an axis of the source tensor; valid within the mask."""
        shape = self._facts.shapes[source.tensor]
        along = np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        values = self.run({source.tensor: np.broadcast_to(along, shape)}) if self._nodes else along
        at = np.broadcast_to(values, source.mask.shape)
        return np.asarray(np.rint((at - source.offset) / np.where(source.mask, source.factor, 1.0)), np.int64)

    def run(self, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run the path: the output for given values of the source tensors; those not given are 0.

        Raises:
            ModelError: the nodes cannot be run by themselves.
        """
        nodes = sorted(self._nodes.values(), key=lambda node: node.index)
        made = {name for node in nodes for name in node.outputs}
        read = {name for node in nodes for name in node.inputs if name} - made - {*self._model.constants}
        feed = {name: self._value(name, given) for name in read}
        part = subgraph(self._model, nodes, feed, [self.output])
        return np.asarray(Runner(part, [self.output], engine=ONE_CORE).run_feed(feed)[self.output], np.float64)

    def _value(self, name: str, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """What a tensor is fed with: given values, sizes where they are known, else 0."""
        facts = self._facts
        known = self._analysis.pinned_value(name)
        if known is not None:
            return known
        if name not in facts.shapes:
            raise ModelError(f"{self._model.name}: the shape of {name!r} is not known")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(facts.dtypes.get(name, onnx.TensorProto.FLOAT))
        return np.ascontiguousarray(given.get(name, np.zeros(facts.shapes[name])), dtype)


def _even(array: np.ndarray, mask: np.ndarray) -> float:
    """The common value of an array where a mask is True, nan where its values differ or there are none."""
    values = array[mask] if any(array.strides) or not array.size else array[(slice(1),) * array.ndim]
    if not values.size:
        return float("nan")
    low, high = float(values.min()), float(values.max())
    if high - low > _UNEVEN * max(abs(low), abs(high)):
        return float("nan")
    middle = low if low == high else float(np.median(values))
    return float(round(middle)) if abs(middle - round(middle)) < 1e-6 else middle
