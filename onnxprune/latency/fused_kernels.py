"""Cuts a graph into fused kernels: operators that onnxruntime runs as one, each as a small model of variable width.

A kernel is an operator together with what onnxruntime fuses into it (BatchNormalization, activations, a residual Add
behind a convolution or a matrix product). In its small model every tensor that comes from elsewhere is made by a stub,
a 1x1 convolution of one channel with a Relu (or a product with a row), and every tensor that is used elsewhere is read
by a stub. So the kernel sees its tensors in the layout that they have in the whole network (onnxruntime blocks channels
between convolutions), and the widths of its ends are free to change. Nothing is measured here.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse
from onnxprune.structure.cut import Cuts
from onnxprune.structure.removal import remove
from onnxprune.structure.units import Ids

STUB = "stub:"
"""What the names of stub nodes and their outputs begin with."""

_MULTIPLIED = (TensorProto.FLOAT, TensorProto.DOUBLE)  # what onnxruntime's matrix products take

CONSTANT = -1

LinearForm = Mapping[int, float]
"""A width as a linear form in the groups' widths: coefficient per group index; key -1 is the constant."""


@dataclass(frozen=True, slots=True)
class FusedKernel:
    """One fused kernel as a small model whose widths can be changed.

    Attributes:
        nodes: names of its nodes in the whole graph.
        key: hash of its structure: kernels with one key take the same time at the same widths.
        analysis: of the small model at full width; its groups are the widths that can change.
        forms: per group of `analysis`, its width in terms of the whole model's groups.
    """

    nodes: tuple[str, ...]
    key: str
    analysis: Analysis
    forms: tuple[LinearForm, ...]

    def widths(self, kept: Sequence[int]) -> tuple[int, ...]:
        """Widths of the kernel's groups where the whole model's groups keep `kept` units; 0 where nothing is left."""
        sums = (sum(n * (1 if g == CONSTANT else int(kept[g])) for g, n in form.items()) for form in self.forms)
        return tuple(max(1, round(width)) if width else 0 for width in sums)

    @property
    def full(self) -> tuple[int, ...]:
        """Widths of the kernel's groups where nothing is removed."""
        return tuple(len(group) for group in self.analysis.groups)

    def at(self, widths: Sequence[int]) -> Model | None:
        """The small model at the given widths; None where nothing is left of it.

        Without an end the kernel is what removal leaves of it: of a convolution with a residual Add the sum with a
        constant, of a convolution alone nothing.
        """
        removed = self.analysis.none_removed()
        for group, width in zip(self.analysis.groups, widths, strict=True):
            removed[group.units[width:]] = True
        if all(widths):
            return remove(self.analysis, removed)
        cut = Cuts(self.analysis, apart=False).find(removed)
        return None if cut.problem is not None else remove(self.analysis, removed, cut)


def fused_kernels(analysis: Analysis) -> tuple[FusedKernel, ...]:
    """All kernels whose time depends on the widths of prunable groups, in graph order.

    Args:
        analysis: the whole model's, at the batch size that is timed.
    """
    group_of = np.full(analysis.units, CONSTANT, dtype=np.int64)
    for index, group in enumerate(analysis.groups):
        group_of[group.units] = index
    known: dict[str, Analysis] = {}
    kernels = []
    for nodes in _runs(analysis):
        cut = _Cut(analysis, nodes)
        if not cut.is_prunable:
            continue
        built = cut.build()
        key = _key(built)
        if key not in known:
            known[key] = analyse(built)
        positions = known[key]
        forms = tuple(_form(group.units, positions, analysis, cut.names, group_of) for group in positions.groups)
        if any(set(form) != {CONSTANT} for form in forms):
            kernels.append(FusedKernel(tuple(node.name for node in nodes), key, positions, forms))
    return tuple(kernels)


def _runs(analysis: Analysis) -> Iterator[tuple[Node, ...]]:
    """The consecutive nodes of each kernel, in graph order."""
    graph = analysis.graph
    taken: set[str] = set()
    for node in graph.nodes:
        constant = all(analysis.value(name) is not None for name in node.outputs if name)
        if node.name in taken or node.captured or constant or node.index < 0:
            continue
        run = [node]
        while handler_of(node.op_type).starts_kernel(node):
            readers = graph.consumers.get(run[-1].output(), ())
            if len(readers) != 1 or run[-1].output() in graph.outputs or len(run[-1].outputs) != 1:
                break
            if not handler_of(readers[0].op_type).joins_kernel(readers[0]) or readers[0].name in taken:
                break
            run.append(readers[0])
        taken |= {member.name for member in run}
        yield tuple(run)


class _Cut:
    """Builds the small model of a kernel. Tensors are named by position, so that equal kernels give equal models."""

    def __init__(self, analysis: Analysis, nodes: tuple[Node, ...]) -> None:
        model, graph = analysis.model, analysis.graph
        self._analysis = analysis
        self._graph = graph
        self._facts = analysis.facts
        self._nodes = nodes
        self._constants: dict[str, np.ndarray] = {}
        self._proto = onnx.ModelProto(
            ir_version=max(model.proto.ir_version, 4),
            opset_import=model.proto.opset_import,
            functions=model.proto.functions,
        )
        self._proto.graph.name = "kernel"
        self._made = {name for node in nodes for name in node.outputs}
        self._inputs = {node.name: _without(node, analysis.omitted) for node in nodes}
        self._read = [
            name
            for name in dict.fromkeys(name for node in nodes for name in self._inputs[node.name] if name)
            if name not in self._made and self._analysis.pinned_value(name) is None
        ]
        self._wanted = [
            name
            for node in nodes
            for name in node.outputs
            if name and (name in graph.outputs or any(user not in nodes for user in graph.consumers.get(name, ())))
        ]
        self.names: dict[str, str] = {}
        """Name in the small model per tensor of the whole model."""

    @property
    def is_prunable(self) -> bool:
        """Whether any tensor of the kernel has prunable channels, and all shapes are known."""
        tensors = [*self._read, *self._wanted]
        known = all(name in self._facts.shapes and name in self._facts.dtypes for name in tensors)
        return known and any(self._axis(name) is not None for name in tensors)

    def build(self) -> Model:
        """The small model at full width."""
        graph = self._proto.graph
        for name in self._read:
            self._make(name)
        for position, node in enumerate(self._nodes):
            copy = graph.node.add()
            copy.CopyFrom(self._analysis.model.proto.graph.node[node.index])
            copy.name = f"node{position}"
            del copy.input[:], copy.output[:]
            copy.input.extend(self._local(name) for name in self._inputs[node.name])
            copy.output.extend(self._local(name) for name in node.outputs)
        for name in self._wanted:
            self._use(name)
        for name, array in self._constants.items():
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.initializer.append(TensorProto(name=name, data_type=element, dims=[-1]))
        return Model(self._proto, MappingProxyType(self._constants), "kernel")

    def _local(self, name: str) -> str:
        """A tensor's name in the small model; constants are copied when they are first used."""
        if not name:
            return ""
        if name not in self.names:
            self.names[name] = f"t{len(self.names)}"
            value = self._analysis.pinned_value(name)
            if value is not None and name not in self._made:
                self._constants[self.names[name]] = value
        return self.names[name]

    def _axis(self, name: str) -> int | None:
        """The prunable channel axis of a tensor; None where there is none, or more than one."""
        axes = self._analysis.labels.get(name, ())
        prunable = [axis for axis, ids in enumerate(axes) if ids is not None and ids.any()]
        return prunable[0] if len(prunable) == 1 else None

    def _stub_kind(self, name: str) -> str:
        """What produces or reads a tensor outside of the kernel: a convolution, a matrix product, or neither."""
        rank = len(self._facts.shapes[name])
        element = self._facts.dtypes[name]
        if element not in _MULTIPLIED or name in self._graph.inputs or name in self._graph.outputs:
            return "none"
        axis = self._axis(name)
        if rank >= 3 and axis in (None, 1):
            return "conv" if element == TensorProto.FLOAT else "none"
        if rank >= 3 and axis == rank - 2:
            return "rows"
        return "product" if rank >= 2 and axis == rank - 1 else "none"

    def _make(self, name: str) -> None:
        """Add the node that produces an input of the kernel."""
        shape, element, local = self._facts.shapes[name], self._facts.dtypes[name], self._local(name)
        match self._stub_kind(name):
            case "conv":
                self._add_input(f"{STUB}{local}:x", (shape[0], 1, *shape[2:]), element)
                self._weight(f"{STUB}{local}:w", (shape[1], 1, *(1 for _ in shape[2:])), element)
                self._node("Conv", [f"{STUB}{local}:x", f"{STUB}{local}:w"], f"{STUB}{local}:y")
                self._node("Relu", [f"{STUB}{local}:y"], f"{STUB}{local}")
            case "product":
                self._add_input(f"{STUB}{local}:x", (*shape[:-1], 1), element)
                self._weight(f"{STUB}{local}:w", (1, shape[-1]), element)
                self._node("MatMul", [f"{STUB}{local}:x", f"{STUB}{local}:w"], f"{STUB}{local}")
            case "rows":
                self._add_input(f"{STUB}{local}:x", (*shape[:-2], 1, shape[-1]), element)
                self._weight(f"{STUB}{local}:w", (shape[-2], 1), element)
                self._node("MatMul", [f"{STUB}{local}:w", f"{STUB}{local}:x"], f"{STUB}{local}")
            case _:
                self._add_input(local, shape, element)
                return
        self.names[name] = f"{STUB}{local}"

    def _use(self, name: str) -> None:
        """Add the node that reads an output of the kernel."""
        shape, element, local = self._facts.shapes[name], self._facts.dtypes[name], self._local(name)
        kind = self._stub_kind(name)
        if kind == "none":
            self._proto.graph.output.append(onnx.ValueInfoProto(name=local))
            self._proto.graph.output[-1].type.tensor_type.elem_type = element
            return
        weight = f"{STUB}{local}:v"
        match kind:
            case "conv":
                self._weight(weight, (1, shape[1], *(1 for _ in shape[2:])), element)
            case "rows":
                self._weight(weight, (1, shape[-2]), element)
            case _:
                self._weight(weight, (shape[-1], 1), element)
        factors = [weight, local] if kind == "rows" else [local, weight]
        self._node("Conv" if kind == "conv" else "MatMul", factors, f"{STUB}{local}:z")
        self._proto.graph.output.append(helper.make_tensor_value_info(f"{STUB}{local}:z", element, None))

    def _add_input(self, name: str, shape: tuple[int, ...], element: int) -> None:
        self._proto.graph.input.append(helper.make_tensor_value_info(name, element, shape))

    def _weight(self, name: str, shape: tuple[int, ...], element: int) -> None:
        self._constants[name] = np.full(shape, 0.5, helper.tensor_dtype_to_np_dtype(element))

    def _node(self, op_type: str, inputs: list[str], output: str) -> None:
        self._proto.graph.node.append(helper.make_node(op_type, inputs, [output], name=output))


def _without(node: Node, omitted: Collection[tuple[str, int]]) -> tuple[str, ...]:
    """Inputs of a node, "" where removal leaves one out: states of zeros, whose width would hold that of the layer."""
    return tuple("" if (node.name, place) in omitted else name for place, name in enumerate(node.inputs))


def _key(model: Model) -> str:
    """Hash of everything that the kernel's time depends on, which is all but the values of weights."""
    digest = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    for name, array in model.constants.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        if array.dtype.kind in "iub":
            digest.update(array.tobytes())
    return digest.hexdigest()[:24]


def _form(
    units: Ids, own: Analysis, whole: Analysis, names: Mapping[str, str], group_of: np.ndarray
) -> dict[int, float]:
    """The width of one of the kernel's groups as a linear function of the whole model's groups."""
    back = {local: name for name, local in names.items()}
    owner: dict[int, int] = {}
    for tensor, axes in own.labels.items():
        labels = whole.labels.get(back.get(tensor, ""), ())
        for ids, theirs in zip(axes, labels, strict=False):
            if ids is None or theirs is None or len(ids) != len(theirs):
                continue
            for unit, other in zip(ids.tolist(), theirs.tolist(), strict=True):
                owner.setdefault(unit, int(group_of[other]))
    form: dict[int, float] = {}
    for unit in units.tolist():
        group = owner.get(unit, CONSTANT)
        form[group] = form.get(group, 0) + (1 if group == CONSTANT else 1 / len(whole.groups[group]))
    return form
