"""Which channels carry the same values for every input, by numbering values.

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
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer

_ELEMENTWISE = frozenset(
    {
        "Relu",
        "Sigmoid",
        "Tanh",
        "Identity",
        "Dropout",
        "Exp",
        "Clip",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Softplus",
        "Abs",
        "Neg",
    }
    | {"HardSigmoid", "HardSwish", "Sqrt", "Erf", "Gelu", "Mish", "Floor", "Ceil", "Softsign", "Reciprocal", "Log"}
)
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"})
_SAMPLE = 16  # elements of a row that are compared first


class Numbering:
    """Numbers of channels: `channels[tensor]` is `(axis, numbers)`, one number per position of the channel axis."""

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
            found = self._layer(node, layer) if layer else self._other(node)
            if found is not None:
                self.channels[node.output()] = found

    def _number(self, *key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _weights(self, layers: Iterable[Layer]) -> Iterable[np.ndarray]:
        """Every weight once, output channels first."""
        for name, axis in {(layer.weight, layer.out_axis): None for layer in layers if not layer.transposed}:
            if (weight := self._analysis.value(name)) is not None:
                yield np.moveaxis(weight, axis, 0)

    def _contents(self, rows: np.ndarray) -> list[bytes]:
        """What tells each row from all others of the model: a sample where that does, else a hash of the whole row."""
        return [
            sample if self._samples[sample] == 1 else blake2b(row.tobytes()).digest()
            for sample, row in zip(_samples(rows), rows, strict=True)
        ]

    def _layer(self, node: Node, layer: Layer) -> tuple[int, np.ndarray] | None:
        weight, bias = self._analysis.value(layer.weight), self._analysis.value(layer.bias) if layer.bias else None
        if weight is None or layer.transposed:
            return None
        rows = np.moveaxis(weight, layer.out_axis, 0)
        width = len(rows)
        if (layer.bias is not None and bias is None) or (bias is not None and bias.size not in (1, width)):
            return None  # computed, or more than one number a channel
        shifts = np.zeros(width) if bias is None else np.broadcast_to(bias.reshape(-1), (width,))
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
        if node.op_type in ("Add", "Sub", "Mul", "Div", "PRelu"):
            return self._arithmetic(node)
        shape = self._analysis.facts.shapes.get(node.output(), ())
        if node.op_type == "Concat":
            return self._joined(node, node.int("axis", 0) % max(1, len(shape)))
        found = self.channels.get(node.input(0))
        return None if found is None else self._unary(node, *found, shape)

    def _unary(
        self, node: Node, axis: int, numbers: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[int, np.ndarray] | None:
        key = (node.op_type, repr(sorted(node.attributes.items())))
        if node.op_type in _ELEMENTWISE or (node.op_type in _POOLS and axis == 1):
            return axis, np.array([self._number(*key, node.inputs[1:], int(n)) for n in numbers])
        if node.op_type == "BatchNormalization" and axis == 1:
            values = [value for name in node.inputs[1:5] if (value := self._analysis.value(name)) is not None]
            own = [tuple(v[c].tobytes() for v in values) for c in range(len(numbers))] if len(values) == 4 else []
            pairs = zip(numbers, own, strict=False)
            return (axis, np.array([self._number(*key, int(n), each) for n, each in pairs])) if own else None
        if (
            node.op_type == "Flatten"
            and axis == node.int("axis", 1) == 1
            and len(shape) == 2
            and shape[1] % len(numbers) == 0
        ):
            each = shape[1] // len(numbers)
            return 1, np.array([self._number("position", int(n), p) for n in numbers for p in range(each)])
        return None

    def _joined(self, node: Node, axis: int) -> tuple[int, np.ndarray] | None:
        parts = [part for name in node.inputs if (part := self.channels.get(name)) is not None and part[0] == axis]
        return (axis, np.concatenate([part[1] for part in parts])) if len(parts) == len(node.inputs) else None

    def _arithmetic(self, node: Node) -> tuple[int, np.ndarray] | None:
        shape = self._analysis.facts.shapes.get(node.output(), ())
        axis = next((self.channels[name][0] for name in node.inputs if name in self.channels), None)
        if axis is None or axis >= len(shape) or len(node.inputs) != 2:
            return None
        sides = [self._side(name, axis, shape) for name in node.inputs]
        if any(side is None for side in sides):
            return None
        pairs = zip(*(side for side in sides if side is not None), strict=True)
        return axis, np.array([self._number(node.op_type, *pair) for pair in pairs])

    def _side(self, name: str, axis: int, shape: tuple[int, ...]) -> list[Any] | None:
        """A key per channel for one operand."""
        array = self._analysis.value(name)
        if array is not None:
            full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
            slices = np.moveaxis(
                np.broadcast_to(full, (*full.shape[:axis], shape[axis], *full.shape[axis + 1 :])), axis, 0
            )
            return [(each.shape, each.tobytes()) for each in slices]
        found = self.channels.get(name)
        if found is None or found[0] != axis or self._analysis.facts.shapes.get(name) != shape:
            return None
        return [int(n) for n in found[1]]


def _samples(rows: np.ndarray) -> list[bytes]:
    """The bytes of each row's first elements."""
    return [sample.tobytes() for sample in rows.reshape(len(rows), prod(rows.shape[1:]))[:, :_SAMPLE]]
