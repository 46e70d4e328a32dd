"""Finds channels that have equal values for every input (value numbering, as in compilers).

Two channels get the same number where they are made by the same operation from channels of the same numbers: rows of
weights, biases and normalisation parameters are compared bit by bit.
"""

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np

from onnxprune.graph.model import release
from onnxprune.graph.nodes import Node
from onnxprune.lossless.intervals import bias_shift
from onnxprune.ops import handler_of
from onnxprune.ops.base import OpHandler
from onnxprune.ops.traits import Flow
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer

_SAMPLE = 16  # elements of a row that are compared first


class Numbering:
    """Numbers channels so that equal numbers mean equal values for every input.

    `channels[tensor]` is `(axis, numbers)`, with one number for each position of the channel axis.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.channels: dict[str, tuple[int, np.ndarray]] = {}
        self._analysis = analysis
        self._numbers: dict[Any, int] = {}
        layers = {layer.node: layer for layer in analysis.layers}
        self._samples = Counter(sample for rows in self._weights(analysis.layers) for sample in _samples(rows))
        for node in analysis.graph.nodes:
            if not node.outputs or not node.output() or self._analysis.value(node.output()) is not None:
                continue
            layer = layers.get(node.name)
            if layer is not None and layer.fused:
                continue
            numbers = self._layer(node, layer) if layer else self._other(node)
            if numbers is not None:
                self.channels[node.output()] = numbers

    def _number(self, *key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _weights(self, layers: Iterable[Layer]) -> Iterable[np.ndarray]:
        """Each weight once, its output channels first."""
        for name, axis in {(layer.weight, layer.out_axis): None for layer in layers if not layer.transposed}:
            if (weight := self._analysis.value(name)) is not None:
                yield np.moveaxis(weight, axis, 0)

    def _contents(self, rows: np.ndarray) -> list[bytes]:
        """A key for each row of a weight: its first elements where these are unique, else a hash of the row."""
        return [
            sample if self._samples[sample] == 1 else blake2b(row.tobytes()).digest()
            for sample, row in zip(_samples(rows), rows, strict=True)
        ]

    def _layer(self, node: Node, layer: Layer) -> tuple[int, np.ndarray] | None:
        weight = self._analysis.value(layer.weight)
        if weight is None or layer.transposed:
            return None
        rows = np.moveaxis(weight, layer.out_axis, 0)
        width = len(rows)
        shifts = bias_shift(node, layer, self._analysis, width)
        if shifts is None:
            return None  # computed, or not one number a channel
        inputs = self.channels.get(layer.input)
        attributes = repr(sorted(node.attributes.items()))
        contents = self._contents(rows)
        release(weight)
        numbers = []
        for channel in range(width):
            if layer.group == 1:
                source: Any = layer.input
            else:  # what a group reads: its slice of the input
                first = channel // (width // layer.group) * rows.shape[1]
                span = range(first, first + rows.shape[1])
                known = inputs is not None and inputs[0] == layer.input_axis
                source = tuple(int(inputs[1][i]) for i in span) if known and inputs else (layer.input, first)
            key = ("layer", node.op_type, attributes, source, contents[channel], rows.shape[1:])
            numbers.append(self._number(*key, shifts[channel].tobytes()))
        return layer.output_axis, np.array(numbers)

    def _other(self, node: Node) -> tuple[int, np.ndarray] | None:
        rules = handler_of(node.op_type)
        flow, moved = rules.flow(node), [node.input(position) for position in rules.moves(node)]
        shape = self._analysis.facts.shapes.get(node.output(), ())
        axis = next((self.channels[name][0] for name in node.inputs if name in self.channels), None)
        if axis is None or axis >= len(shape):
            return None
        if flow is None:
            return self._carried(node, rules, moved, axis, shape)
        if flow is Flow.ELEMENTWISE:
            sides = [self._side(name, axis, shape) for name in node.inputs]
        elif axis == 1 and node.input(0) in self.channels:
            sides = [[int(n) for n in self.channels[node.input(0)][1]]]
            sides += [self._parameter(name, shape[1]) for name in node.inputs[1:]]
        else:
            return None
        if any(side is None for side in sides):
            return None
        key = (node.op_type, repr(sorted(node.attributes.items())))
        channels = zip(*(side for side in sides if side is not None), strict=True)
        return axis, np.array([self._number(*key, *operands) for operands in channels])

    def _carried(
        self, node: Node, rules: OpHandler, moved: list[str], axis: int, shape: tuple[int, ...]
    ) -> tuple[int, np.ndarray] | None:
        """Numbers of channels that a node only moves; None where those of an input are unknown."""
        parts = [part[1] for name in moved if (part := self.channels.get(name)) is not None and part[0] == axis]
        if not parts or len(parts) < len(moved):
            return None
        carried = rules.carried(node, axis, [len(part) for part in parts], shape)
        if carried is None:
            return None
        numbers = np.concatenate(parts)[carried.channels]
        if carried.places is not None:
            pairs = zip(numbers, carried.places, strict=True)
            numbers = np.array([self._number("place", int(n), int(place)) for n, place in pairs])
        return carried.axis, numbers

    def _parameter(self, name: str, width: int) -> list[Any] | None:
        """A key for each channel of a parameter with one number per channel."""
        values = self._analysis.value(name)
        return None if values is None or len(values) != width else [value.tobytes() for value in values]

    def _side(self, name: str, axis: int, shape: tuple[int, ...]) -> list[Any] | None:
        """A key for each channel of one operand of an elementwise operator."""
        if not name or self._analysis.facts.shapes.get(name) in ((), (1,)):
            constant = self._analysis.value(name) if name else None
            return [name if constant is None else constant.tobytes()] * shape[axis]
        array = self._analysis.value(name)
        if array is not None:
            full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
            slices = np.moveaxis(
                np.broadcast_to(full, (*full.shape[:axis], shape[axis], *full.shape[axis + 1 :])), axis, 0
            )
            return [(part.shape, part.tobytes()) for part in slices]
        numbered = self.channels.get(name)
        if numbered is None or numbered[0] != axis or self._analysis.facts.shapes.get(name) != shape:
            return None
        return [int(n) for n in numbered[1]]


def _samples(rows: np.ndarray) -> list[bytes]:
    """The first elements of each row, as bytes."""
    return [sample.tobytes() for sample in rows.reshape(len(rows), prod(rows.shape[1:]))[:, :_SAMPLE]]
