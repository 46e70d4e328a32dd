"""The graph as handlers see it: nodes with decoded attributes, and who produces and reads each tensor.

Built with onnx-graphsurgeon, which resolves attributes and what subgraphs capture. Read-only: edits are made on the
protobuf by `structure.removal`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.core.errors import ModelError
from onnxprune.core.text import first_line
from onnxprune.graph.model import Model, skeleton


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node of the graph.

    Attributes:
        name: what identifies the node among the graph's nodes and in reports: its own name, or its first output's where
            it has none or one that another node has too. The file keeps the names it has.
        op_type: operator, with its domain where that is not the default one.
        inputs: tensor names, "" for an omitted optional input.
        outputs: tensor names.
        attributes: decoded attributes.
        captured: outer tensors that the node's subgraphs read.
        opset: version of the operator set in force.
        index: position among the graph's nodes.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    captured: tuple[str, ...]
    opset: int
    index: int

    @property
    def is_constant(self) -> bool:
        """Whether the node holds a constant of the file; its output is then among the model's constants."""
        return self.op_type == "Constant"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all tensors that the node reads, those of its subgraphs too."""
        return (*filter(None, self.inputs), *self.captured)

    def input(self, position: int) -> str:
        """Name of an input; "" where it is omitted."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def output(self, position: int = 0) -> str:
        """Name of an output; "" where it is omitted."""
        return self.outputs[position] if position < len(self.outputs) else ""

    def ints(self, attribute: str) -> tuple[int, ...] | None:
        """A list-of-integers attribute; None where it is absent."""
        value = self.attributes.get(attribute)
        return None if value is None else tuple(int(v) for v in value)

    def int(self, attribute: str, default: int) -> int:
        """An integer attribute, or its default."""
        return int(self.attributes.get(attribute, default))

    def __str__(self) -> str:
        return f"{self.op_type} {self.name!r}"


@dataclass(frozen=True, slots=True, repr=False)
class Graph:
    """All nodes in topological order, and for each tensor its producer and consumers."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    producer: Mapping[str, Node]
    consumers: Mapping[str, tuple[Node, ...]]

    def reads(self, tensor: str) -> int:
        """How often a tensor is read: each input of a node counts, each body, and each output of the graph."""
        users = sum(max(1, node.inputs.count(tensor)) for node in self.consumers.get(tensor, ()))
        return users + self.outputs.count(tensor)

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, inputs {', '.join(self.inputs)}, outputs {', '.join(self.outputs)})"


def read_graph(model: Model) -> Graph:
    """Read the nodes of a model's main graph.

    Raises:
        ModelError: the graph cannot be read (a cycle, an undefined tensor).
    """
    try:
        with G_LOGGER.suppress():  # what it cannot read is an error; else nothing is printed, as it does of bfloat16
            graph = gs.import_onnx(skeleton(model))
            graph.toposort()
    except (gs.OnnxGraphSurgeonException, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{model.name}: the graph cannot be read: {error}") from error
    position = {o: index for index, node in enumerate(model.proto.graph.node) for o in node.output if o}
    nodes = []
    for source, name in zip(graph.nodes, _unique_names(graph.nodes), strict=True):
        outputs = tuple(t.name for t in source.outputs)
        inner = [value for value in source.attrs.values() if isinstance(value, gs.Graph)]
        captured = sorted({name for subgraph in inner for name in _captured(subgraph)})
        nodes.append(
            Node(
                name=name,
                op_type=qualified(source.op, source.domain),
                inputs=tuple(t.name for t in source.inputs),
                outputs=outputs,
                attributes=_attributes(source),
                captured=tuple(captured),
                opset=model.opset,
                index=next((position.get(o, -1) for o in outputs if o), -1),
            )
        )
    producer = {name: node for node in nodes for name in node.outputs if name}
    consumers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in dict.fromkeys((*node.inputs, *node.captured)):
            if name:
                consumers.setdefault(name, []).append(node)
    constant = model.constants
    return Graph(
        nodes=tuple(nodes),
        inputs=tuple(value.name for value in model.proto.graph.input if value.name not in constant),
        outputs=tuple(value.name for value in model.proto.graph.output),
        producer=producer,
        consumers={name: tuple(users) for name, users in consumers.items()},
    )


def _unique_names(nodes: Sequence[gs.Node]) -> list[str]:
    """A unique name for each node; repeated names are replaced by names made from the first output."""
    names: list[str] = [""] * len(nodes)
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if node.name and node.name not in taken:
            names[index] = node.name
            taken.add(node.name)
    for index, node in enumerate(nodes):
        if not names[index]:
            base = next((tensor.name for tensor in node.outputs if tensor.name), node.op)
            name, suffix = base, 2
            while name in taken:
                name, suffix = f"{base}#{suffix}", suffix + 1
            names[index] = name
            taken.add(name)
    return names


def qualified(op_type: str, domain: str | None) -> str:
    """An operator's name, preceded by its domain unless that is the default one."""
    return op_type if domain in (None, "", "ai.onnx") else f"{domain}.{op_type}"


def _attributes(source: gs.Node) -> dict[str, Any]:
    """Attributes as numbers, texts, lists and arrays; subgraphs are left out.

    Values of Constant nodes are left out: they are the model's constants, and reading them here would copy them.
    """
    return {
        name: value.values if isinstance(value, gs.Constant) else value
        for name, value in source.attrs.items()
        if not isinstance(value, gs.Graph) and not (source.op == "Constant" and isinstance(value, gs.Constant))
    }


def _captured(subgraph: gs.Graph) -> Iterator[str]:
    """Names that a subgraph reads from outside."""
    made = {t.name for node in subgraph.nodes for t in node.outputs} | {t.name for t in subgraph.inputs}
    for node in subgraph.nodes:
        yield from (t.name for t in node.inputs if t.name and t.name not in made)
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from (name for name in _captured(value) if name not in made)
    yield from (t.name for t in subgraph.outputs if t.name not in made)


def is_float(array: np.ndarray) -> bool:
    """Whether an array holds floating-point numbers (including bfloat16 and 8-bit floats)."""
    return array.dtype.kind == "f" or "float" in array.dtype.name


@contextmanager
def named_failures(model: Model, node: Node) -> Iterator[None]:
    """Context that turns a handler's errors on a damaged model into a `ModelError` that names the node.

    Raises:
        ModelError: names the node.
    """
    try:
        yield
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, AttributeError) as error:
        raise ModelError(f"{model.name}: {node} contradicts its shapes or attributes: {first_line(error)}") from error
    except MemoryError as error:
        raise ModelError(f"{model.name}: {node} needs more memory than there is") from error


def read_in_bodies(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that subgraphs of nodes read or give on, of their own tensors and of outer ones."""
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for inner in body.node:
                    yield from inner.input
                yield from (value.name for value in body.output)
                yield from read_in_bodies(body)
