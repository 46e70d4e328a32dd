"""Builds ONNX models that compute gradients: the forward graph, and a backward pass of its operators' gradient rules.

For one output `z`, inner tensors `h` and a direction `d` in the space of `z`, they give `(dz/dh . d) * h`, summed over
all axes but the batch and one other: what scaling a channel would change in `z`, along `d`. Handlers add the nodes;
onnxruntime runs them. No framework is needed. The two are models of their own, so that many directions take one forward
pass: what depends on no direction (gates, routes, sizes) is part of that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis

SEED = "onnxprune:direction"
"""Name of the input that takes the direction, of the output's shape."""
_PREFIX = "onnxprune:"


@dataclass(frozen=True, slots=True)
class Gradients:
    """The models of a forward and a backward pass.

    Attributes:
        forward: from the original's inputs to `kept`.
        kept: what the backward pass reads of it.
        outputs: name of the backward pass' output for each wanted tensor; those that the output does not depend on
            have none.
        nodes: of the backward pass.
        constants: of the backward pass.
    """

    forward: Model
    kept: tuple[str, ...]
    outputs: Mapping[str, str]
    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, np.ndarray]

    def backward(self, kept: Mapping[str, np.ndarray]) -> Model:
        """The model from `SEED`, a direction of the output's shape, and `kept` to `outputs`.

        Args:
            kept: what a forward pass gave; only types and numbers of axes matter.
        """
        source = self.forward.proto
        proto = onnx.ModelProto(ir_version=max(source.ir_version, 4), opset_import=source.opset_import)
        graph = proto.graph
        graph.name = "backward pass"
        graph.node.extend(self.nodes)
        graph.input.append(onnx.ValueInfoProto(name=SEED))
        graph.input[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for name, array in kept.items():
            open_sizes = [f"{name} {axis}" for axis in range(array.ndim)]
            graph.input.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), open_sizes)
            )
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(self.outputs.values()))
        _declare(proto, self.constants)
        return Model(proto, MappingProxyType(dict(self.constants)), self.forward.name)


def gradient_models(analysis: Analysis, output: str, wanted: Mapping[str, int]) -> Gradients:
    """Build the models that compute the gradient of an output with respect to given tensors.

    Args:
        analysis: the model's.
        output: the tensor whose gradient is taken.
        wanted: inner tensors, each with the axis along which its products are not summed.

    Raises:
        ModelError: an operator on the way has no rule.
    """
    graph = _Gradients(analysis, output, set(wanted))
    graph.walk()
    gradients = {}
    for tensor, axis in wanted.items():
        if graph.arrived(tensor):
            product = graph.node("Mul", [graph.gradient(tensor), tensor])
            others = [a for a in range(1, len(analysis.shape(tensor))) if a != axis]
            gradients[tensor] = graph.sum(product, others, keep=False) if others else product
    return graph.models(gradients)


def _declare(proto: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> None:
    """Add constants whose values stand beside the protobuf."""
    for name, array in constants.items():
        data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.graph.initializer.append(onnx.TensorProto(name=name, data_type=data_type, dims=[-1]))
        if proto.ir_version < 4:
            proto.graph.input.append(helper.make_tensor_value_info(name, data_type, array.shape))


class _Gradients:
    """Collects the nodes of the backward pass; implements `ops.base.Backward`."""

    def __init__(self, analysis: Analysis, output: str, wanted: set[str]) -> None:
        self._analysis = analysis
        self._opset = analysis.model.opset
        dtype = helper.tensor_dtype_to_np_dtype(analysis.facts.dtypes[output])
        if dtype != np.float32:
            raise ModelError(f"{analysis.name}: gradients are computed in single precision; {output!r} is {dtype}")
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple[str, bytes], str] = {}
        self._arrived: dict[str, list[str]] = {output: [SEED]}
        self._depends = set(wanted)
        for node in analysis.graph.nodes:
            if any(name in self._depends for name in node.inputs):
                self._depends.update(name for name in node.outputs if name)

    def walk(self) -> None:
        """Propagate the gradient from the output back to all wanted tensors."""
        for node in reversed(self._analysis.graph.nodes):
            if not any(self.arrived(name) for name in node.outputs):
                continue
            if any(self.needs(name) for name in node.inputs) and not self._through(node):
                raise ModelError(
                    f"{self._analysis.name}: {node} has no backward rule, which the affine form of --importance oamip "
                    "needs; use --oamip-form decoupled, or another --importance"
                )

    def _through(self, node: Node) -> bool:
        return handler_of(node.op_type).backward(node, self)

    def arrived(self, tensor: str) -> bool:
        """Whether a tensor has received any gradient."""
        return tensor in self._arrived

    def needs(self, tensor: str) -> bool:
        """Whether the gradient of a tensor is needed."""
        return tensor in self._depends

    def gradient(self, output: str) -> str:
        """Name of the gradient of an output; a tensor of zeros where nothing contributed to it."""
        parts = self._arrived.get(output)
        if parts is None:
            return self.node("Mul", [output, self.constant(0.0)])
        while len(parts) > 1:
            first, second = parts.pop(), parts.pop()
            parts.append(self.node("Add", [first, second]))
        return parts[0]

    def add(self, tensor: str, gradient: str) -> None:
        """Add a contribution to a tensor's gradient."""
        self._arrived.setdefault(tensor, []).append(gradient)

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node to the backward pass, and return the name of its output."""
        return self.nodes(op_type, inputs, 1, **attributes)[0]

    def nodes(self, op_type: str, inputs: Sequence[str], count: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs to the backward pass."""
        outputs = tuple(f"{_PREFIX}{len(self._nodes)}:{position}" for position in range(count))
        self._nodes.append(helper.make_node(op_type, list(inputs), list(outputs), name=outputs[0], **attributes))
        return outputs

    def sum(self, tensor: str, axes: Iterable[int], *, keep: bool) -> str:
        """Add a sum over axes."""
        chosen = [int(axis) for axis in axes]
        if self._opset < 13:
            return self.node("ReduceSum", [tensor], axes=chosen, keepdims=int(keep))
        return self.node("ReduceSum", [tensor, self.constant(np.asarray(chosen, np.int64))], keepdims=int(keep))

    def constant(self, value: Any) -> str:
        """Add a constant; equal values are stored once."""
        array = np.asarray(value)
        array = array if array.dtype.kind in "iub" else array.astype(np.float32)
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._known:
            self._known[key] = f"{_PREFIX}constant{len(self._constants)}"
            self._constants[self._known[key]] = array
        return self._known[key]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor at the batch size that was analysed."""
        return self._analysis.shape(tensor)

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a constant, None for other tensors."""
        return self._analysis.value(tensor)

    def models(self, outputs: Mapping[str, str]) -> Gradients:
        """The finished models: what depends on the direction is the backward pass, all else the forward one."""
        source = self._analysis.model
        behind = {SEED}
        first: list[onnx.NodeProto] = []
        second: list[onnx.NodeProto] = []
        for node in self._nodes:
            follows = not behind.isdisjoint(node.input)
            behind.update(node.output if follows else ())
            (second if follows else first).append(node)
        read = dict.fromkeys(name for node in second for name in node.input if name and name not in behind)
        known = {name: self.value(name) if name not in self._constants else self._constants[name] for name in read}
        constants = {name: value for name, value in known.items() if value is not None}
        kept = tuple(name for name in read if name not in constants)
        own = {name: value for name, value in self._constants.items() if any(name in node.input for node in first)}
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
        proto.graph.node.extend(first)
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in kept)
        _declare(proto, own)
        forward = Model(proto, MappingProxyType({**source.constants, **own}), source.name)
        reached = {tensor: name for tensor, name in outputs.items() if name in behind}
        return Gradients(forward, kept, reached, tuple(second), constants)
