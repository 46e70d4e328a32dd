"""Edits a graph: collects changes and writes them into a new protobuf. The original model is never changed."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

from onnxprune.graph.model import Model, constant_nodes
from onnxprune.graph.nodes import Graph, Node


class GraphEdit:
    """Changes of constants, attributes and connections in a model's main graph.

    Attributes:
        model: the model before the edit.
        graph: its graph.
        values: constants with a new value; names that the model does not have become initializers.
    """

    def __init__(self, model: Model, graph: Graph) -> None:
        self.model = model
        self.graph = graph
        self.values: dict[str, np.ndarray] = {}
        self._attributes: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, dict[int, str]] = {}
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._outputs: dict[int, dict[str, str]] = {}
        self._handed_out: dict[int, dict[int, str]] = {}
        self._dropped: set[int] = set()
        self._dropped_inputs: dict[int, set[int]] = {}
        self._dropped_outputs: dict[int, set[int]] = {}
        self._copies: dict[int, str] = {}
        self._renamed: dict[str, str] = {}
        self._captured = {name for node in graph.nodes for name in node.captured}
        self._names = {name for node in graph.nodes for name in (*node.inputs, *node.outputs)} | set(model.constants)

    def set_value(self, tensor: str, value: np.ndarray) -> None:
        """Set the value of a constant; a computed tensor becomes an initializer."""
        self.values[tensor] = value

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute of a node; None removes it."""
        self._attributes.setdefault(node.index, {})[name] = value

    def input(self, node: Node, position: int) -> str:
        """Name of a node's input as edited so far."""
        return self._inputs.get(node.index, {}).get(position, node.input(position))

    def stored(self, tensor: str) -> np.ndarray | None:
        """The value of a constant as edited so far; None for what is computed."""
        return self.values.get(tensor, self.model.constants.get(tensor))

    def set_input(self, node: Node, position: int, value: np.ndarray) -> str:
        """Set a node's input to a constant. Other readers of the old constant keep it."""
        current = self.input(node, position)
        value = np.asarray(value, order="C")
        readers = self.graph.reads(current)
        if (current in self.model.constants and readers == 1) or (current in self.values and readers == 0):
            value = value.astype((self.model.constants if readers else self.values)[current].dtype, copy=False)
            name = current
        else:
            if current in self.model.constants and value.dtype.kind == self.model.constants[current].dtype.kind:
                value = value.astype(self.model.constants[current].dtype, copy=False)
            name = self.fresh_name(f"{node.name}_{position}" if not current else f"{current}_{node.name}")
            self._inputs.setdefault(node.index, {})[position] = name
        self.values[name] = value
        return name

    def read_instead(self, node: Node, position: int, tensor: str) -> None:
        """Connect an input of a node to another tensor; "" disconnects an optional input."""
        self._inputs.setdefault(node.index, {})[position] = tensor

    def hand_out(self, node: Node, position: int, tensor: str) -> None:
        """Let a node give an output that it left out a name."""
        self._handed_out.setdefault(node.index, {})[position] = tensor

    def multiply_input(self, node: Node, position: int, factor: np.ndarray, data_type: int) -> None:
        """Insert a multiplication by a constant before a node's input."""
        product = self.fresh_name(f"{node.input(position)}_masked")
        factor = factor.astype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
        self._before.setdefault(node.index, []).append(self._binary("Mul", node.input(position), factor, product))
        self._inputs.setdefault(node.index, {})[position] = product

    def replace_input_elements(self, node: Node, position: int, where: np.ndarray, values: np.ndarray) -> None:
        """Replace elements of a computed integer tensor (`where` is True), for one reader."""
        patched = self.fresh_name(f"{node.input(position)}_{node.name}")
        nodes = self._patch(node.input(position), patched, where, values)
        self._before.setdefault(node.index, []).extend(nodes)
        self._inputs.setdefault(node.index, {})[position] = patched

    def replace_output_elements(self, node: Node, where: np.ndarray, values: np.ndarray) -> None:
        """Replace elements of the integer tensor that a node computes, for all readers.

        Elements where `where` is True get those of `values`.
        """
        raw = self.fresh_name(f"{node.output()}_raw")
        self._after.setdefault(node.index, []).extend(self._patch(raw, node.output(), where, values))
        self._outputs.setdefault(node.index, {})[node.output()] = raw

    def drop(self, node: Node) -> None:
        """Leave out a node."""
        self._dropped.add(node.index)

    def drop_input(self, node: Node, position: int) -> None:
        """Leave out one of a node's inputs; those behind it move up."""
        self._dropped_inputs.setdefault(node.index, set()).add(position)

    def drop_output(self, node: Node, position: int) -> None:
        """Leave out one of a node's outputs; those behind it move up."""
        self._dropped_outputs.setdefault(node.index, set()).add(position)

    def bypass(self, node: Node, source: str) -> None:
        """Leave out a node whose result is what `source` holds.

        The result keeps its name, which `source` takes over; where that is seen from outside, it is the other way
        round; where both are, an Identity stays.
        """
        output, source = self.name(node.output()), self.name(source)
        if source in self.graph.producer and source not in self.values and not self._is_seen(source):
            self._renamed[source] = output
        elif not self._is_seen(output):
            self._renamed[output] = source
        else:
            self._copies[node.index] = source
            return
        self.drop(node)

    def rename(self, tensor: str) -> None:
        """Give a computed tensor that nothing outside of the nodes knows a name that is not taken."""
        current = self.name(tensor)
        self._renamed[current] = self.fresh_name(f"{current}_changed")

    def name(self, tensor: str) -> str:
        """What a tensor is called after the edit."""
        while tensor in self._renamed:
            tensor = self._renamed[tensor]
        return tensor

    def _is_seen(self, tensor: str) -> bool:
        """Whether a name is known outside of the main graph's nodes."""
        return tensor in self.graph.outputs or tensor in self.graph.inputs or tensor in self._captured

    def _patch(self, source: str, target: str, where: np.ndarray, values: np.ndarray) -> list[onnx.NodeProto]:
        """Compute `source * keep + values`, since the operator Where needs a newer operator set."""
        kept = self.fresh_name(f"{target}_kept")
        keep, inserted = np.where(where, 0, 1).astype(np.int64), np.where(where, values, 0).astype(np.int64)
        return [self._binary("Mul", source, keep, kept), self._binary("Add", kept, inserted, target)]

    def _binary(self, op_type: str, first: str, second: np.ndarray, output: str) -> onnx.NodeProto:
        constant = self.fresh_name(f"{output}_constant")
        self.values[constant] = second
        return onnx.helper.make_node(op_type, [first, constant], [output], name=self.fresh_name(f"{output}_{op_type}"))

    def fresh_name(self, base: str) -> str:
        """A tensor name that is not in use."""
        name, suffix = base, 2
        while name in self._names:
            name, suffix = f"{base}_{suffix}", suffix + 1
        self._names.add(name)
        return name

    def apply(self, stale: frozenset[str] = frozenset(), declared: Iterable[onnx.ValueInfoProto] = ()) -> Model:
        """Build the edited model.

        Args:
            stale: tensors whose declared shapes (value_info) no longer hold and are left out.
            declared: shapes to declare in their place.
        """
        source = self.model.proto
        proto = onnx.ModelProto()
        copy_fields(source, proto, skip=("graph",))
        graph = proto.graph
        copy_fields(source.graph, graph, skip=("initializer", "value_info", "node", "input"))
        stale = stale.union(self.values, self._renamed)
        graph.value_info.extend(v for v in source.graph.value_info if v.name not in stale)
        graph.value_info.extend(v for v in declared if v.name not in self.values and v.name not in self._renamed)
        known = {tensor.name for tensor in source.graph.initializer}
        for tensor in source.graph.initializer:
            graph.initializer.append(placeholder(tensor) if tensor.name in self.values else tensor)
        made = {node.output[0] for node, _ in constant_nodes(source.graph)}
        for name, array in self.values.items():
            if name not in known and name not in made:
                data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                graph.initializer.append(placeholder(onnx.TensorProto(name=name, data_type=data_type)))
                if proto.ir_version < 4:  # then every initializer is also an input
                    graph.input.append(onnx.helper.make_tensor_value_info(name, data_type, array.shape))
        for value in source.graph.input:
            graph.input.append(value)
            if value.name in self.values and value.name in self.model.constants:
                shape = onnx.helper.make_tensor_type_proto(1, self.values[value.name].shape).tensor_type.shape
                graph.input[-1].type.tensor_type.shape.CopyFrom(shape)
        for index, node in enumerate(source.graph.node):
            stored = node.output and all(o in self.values or not o for o in node.output)
            if index not in self._dropped and (not stored or node.output[0] in made):
                graph.node.extend(self._before.get(index, ()))
                self._append(graph, node, index)
                graph.node.extend(self._after.get(index, ()))
        for node in graph.node if self._renamed else ():
            for names in (node.input, node.output):
                names[:] = [self.name(name) for name in names]
        constants = MappingProxyType({**self.model.constants, **self.values})
        return without_dead(replace(self.model, proto=proto, constants=constants), source)

    def _append(self, graph: onnx.GraphProto, source: onnx.NodeProto, index: int) -> None:
        node = graph.node.add()
        if source.op_type == "Constant" and source.output[0] in self.values:
            copy_fields(source, node, skip=("attribute",))
            for attribute in source.attribute:
                fresh = node.attribute.add()
                if attribute.HasField("t"):
                    copy_fields(attribute, fresh, skip=("t",))
                    fresh.t.CopyFrom(placeholder(attribute.t))
                else:
                    fresh.CopyFrom(attribute)
            return
        if index in self._copies:
            copied = onnx.helper.make_node("Identity", [self._copies[index]], list(source.output), name=source.name)
            node.CopyFrom(copied)
            return
        node.CopyFrom(source)
        for name, value in self._attributes.get(index, {}).items():
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del node.attribute[:]
            node.attribute.extend(kept)
            if value is not None:
                node.attribute.append(onnx.helper.make_attribute(name, value))
        for position, name in self._inputs.get(index, {}).items():
            while len(node.input) <= position:
                node.input.append("")
            node.input[position] = name
        self._write_outputs(node, source, index)

    def _write_outputs(self, node: onnx.NodeProto, source: onnx.NodeProto, index: int) -> None:
        renamed = self._outputs.get(index, {})
        for position, name in enumerate(source.output):
            node.output[position] = renamed.get(name, name)
        for position, name in self._handed_out.get(index, {}).items():
            node.output.extend([""] * (1 + position - len(node.output)))
            node.output[position] = name
        for position in sorted(self._dropped_inputs.get(index, ()), reverse=True):
            del node.input[position]
        for position in sorted(self._dropped_outputs.get(index, ()), reverse=True):
            del node.output[position]


def placeholder(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor without its data and shape, which `to_proto` fills in from `Model.constants`."""
    fresh = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, doc_string=tensor.doc_string, dims=[-1])
    fresh.metadata_props.extend(tensor.metadata_props)
    return fresh


def copy_fields(source: Any, target: Any, skip: tuple[str, ...]) -> None:
    """Copy all set fields of a protobuf message, except some."""
    for descriptor, value in source.ListFields():
        if descriptor.name in skip:
            continue
        if isinstance(value, Message):
            getattr(target, descriptor.name).CopyFrom(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(target, descriptor.name, value)
        else:
            getattr(target, descriptor.name).extend(value)


def without_dead(model: Model, before: onnx.ModelProto) -> Model:
    """Drop nodes and constants that nobody reads after an edit; what was unread before stays.

    Args:
        model: the edited model, whose protobuf is changed.
        before: the protobuf it was made of.
    """
    graph = model.proto.graph
    unread_before = _made(before.graph).difference(_names_read(before.graph))
    read = Counter(_names_read(graph))
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        outputs = [name for name in node.output if name]
        if outputs and not any(name in unread_before or read[name] for name in outputs):
            read.subtract(_names_of(node))
            del graph.node[index]
    lost = {name for name in _made(graph) | {*model.constants} if name not in unread_before and not read[name]}
    _delete(graph.initializer, lambda t: t.name in lost)
    _delete(graph.input, lambda v: v.name in lost and v.name in model.constants)
    gone = _made(before.graph).difference(_made(graph))
    _delete(graph.value_info, lambda v: v.name in gone)
    names = {t.name for t in graph.initializer} | {n.output[0] for n, _ in constant_nodes(graph)}
    constants = {name: value for name, value in model.constants.items() if name in names}
    return replace(model, constants=MappingProxyType(constants))


def _delete(field: Any, gone: Callable[[Any], bool]) -> None:
    for index in reversed(range(len(field))):
        if gone(field[index]):
            del field[index]


def _made(graph: onnx.GraphProto) -> set[str]:
    """Names of initializers and of what nodes make."""
    return {t.name for t in graph.initializer} | {name for node in graph.node for name in node.output if name}


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """All names that the outputs and nodes of a graph (also in subgraphs) read, with repetitions."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from _names_of(node)


def _names_of(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _names_read(inner)
