"""Channels on every axis that an operator reads: those that its handler does not place stay, whatever it looks at.

Each example's node runs alone, with its own shapes. In front of it, a product makes the units of one axis, which a
Transpose moves where they are wanted; behind it, every axis of every output is contracted.
"""

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import analysed, check_removal, random_removal

from onnxprune.graph.nodes import Node
from onnxprune.ops import handlers
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis

FLOAT = TensorProto.FLOAT


@cache
def nodes_of(handler_type: type) -> tuple[tuple[Analysis, Node], ...]:
    """The handler's own nodes in its examples, each kind once."""
    handler = next(h for h in handlers().values() if type(h) is handler_type)
    found: dict[str, tuple[Analysis, Node]] = {}
    for proto in handler.examples():
        first = proto.graph.input[0]
        dims = [d.dim_value or 3 for d in first.type.tensor_type.shape.dim]
        dims[2:] = [d.dim_value or 8 for d in first.type.tensor_type.shape.dim][2:]
        a = analysed(proto, {first.name: tuple(dims)})
        for node in a.graph.nodes:
            if node.op_type in handler.op_types and a.value(node.output()) is None:
                shapes = [a.facts.shapes.get(name) for name in node.inputs]
                found.setdefault(repr((node.op_type, node.attributes, shapes)), (a, node))
    return tuple(found.values())


class Alone:
    """A model of one node whose inputs carry units on chosen axes."""

    def __init__(self, a: Analysis, node: Node, axes: Mapping[str, int]) -> None:
        self._a = a
        self._rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(filter(None, node.inputs)):
            value = a.value(name)
            if value is not None:
                self.constants[name] = value
            elif name in axes:
                self._made(name, axes[name])
            else:
                kind = a.facts.dtypes[name]
                self.inputs.append(helper.make_tensor_value_info(name, kind, a.facts.shapes[name]))
        self.nodes.append(a.model.proto.graph.node[node.index])
        for name in filter(None, node.outputs):
            self._contracted(name)

    def _weight(self, name: str, *shape: int) -> str:
        self.constants[name] = self._rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[0]).item()
        return name

    def _made(self, name: str, axis: int) -> None:
        shape = list(self._a.facts.shapes[name])
        size = shape.pop(axis)
        self.inputs.append(helper.make_tensor_value_info(f"{name}_x", FLOAT, [*shape, 3]))
        weight = self._weight(f"{name}_w", 3, size)
        self.nodes.append(helper.make_node("MatMul", [f"{name}_x", weight], [f"{name}_h"], name=f"make {name}"))
        perm = [*range(len(shape))]
        perm.insert(axis, len(shape))
        self.nodes.append(helper.make_node("Transpose", [f"{name}_h"], [name], perm=perm))

    def _contracted(self, name: str) -> None:
        shape, last = self._a.facts.shapes[name], f"{name}_f"
        self.nodes.append(helper.make_node("Cast", [name], [last], to=FLOAT))
        for axis, size in enumerate(shape):
            perm = [a for a in range(len(shape)) if a != axis] + [axis]
            back = [int(position) for position in np.argsort(perm)]
            moved, product, following = (f"{name}_{axis}{letter}" for letter in "mpf")
            weight = self._weight(f"{name}_{axis}w", size, 2)
            self.nodes.append(helper.make_node("Transpose", [last], [moved], perm=perm))
            self.nodes.append(helper.make_node("MatMul", [moved, weight], [product]))
            self.nodes.append(helper.make_node("Transpose", [product], [following], perm=back))
            last = following
        self.outputs.append(helper.make_tensor_value_info(last, FLOAT, [2] * len(shape)))

    def model(self) -> onnx.ModelProto:
        stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "alone", self.inputs, self.outputs, stored)
        return helper.make_model(graph, opset_imports=self._a.model.proto.opset_import, ir_version=8)


def placements(a: Analysis, node: Node) -> Iterator[dict[str, int]]:
    """Axes to put units on: of one input, and of all inputs at once (counted from the right)."""
    shapes = {
        name: a.facts.shapes[name]
        for name in dict.fromkeys(filter(None, node.inputs))
        if a.value(name) is None and a.facts.dtypes[name] == FLOAT
    }
    for name, shape in shapes.items():
        yield from ({name: axis} for axis, size in enumerate(shape) if size > 1)
    if len(shapes) > 1:
        for back in range(1, 1 + max(map(len, shapes.values()))):
            yield {name: len(s) - back for name, s in shapes.items() if len(s) >= back and s[-back] > 1}


@pytest.mark.parametrize("handler", dict.fromkeys(map(type, handlers().values())), ids=lambda h: h.__name__)
def test_channels_on_every_axis(handler: type) -> None:
    rng = np.random.default_rng(0)
    for a, node in nodes_of(handler):
        for axes in placements(a, node):
            b = analysed(Alone(a, node, axes).model())
            seen = any(group.consumers for group in b.groups)
            for share in (0.3, 0.7) if seen else ():
                try:
                    check_removal(b, random_removal(b, share, rng))
                except Exception as error:
                    raise AssertionError(f"{node} with units on {axes}") from error


def test_an_axis_that_is_not_placed_names_the_node() -> None:
    """Channels on the batch axis of a convolution were offered as prunable."""
    found = nodes_of(type(handlers()["Conv"]))
    a, node = found[0]
    b = analysed(Alone(a, node, {node.input(0): 0}).model())
    reasons = [item for item in b.not_pruned if item.node == node.name]
    assert [item.reason for item in reasons] == [f"Conv does not follow channels on axis 0 of {node.input(0)!r}"]
    assert not any("make" in group.name for group in b.groups)


def test_ids_on_two_axes_are_placed_apart() -> None:
    """Channels that lie on two axes of one tensor: what places one of them says nothing of the other."""
    model = example(
        """g (float[3,4] x) => (float[1,5,6] y) {
        h = MatMul (x, w1)
        t = Transpose (h)
        s = MatMul (t, h)
        u = Unsqueeze (s, zero)
        y = Conv (u, w2) }""",
        {"w1": (4, 6), "w2": (5, 6, 1)},
        {"zero": np.array([0])},
    )
    a = analysed(model)
    assert not a.groups
    assert [(item.node, item.tensor) for item in a.not_pruned] == [("y", "u"), ("", "y")]
