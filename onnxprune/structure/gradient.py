"""Builds an ONNX model that computes gradients: the forward graph followed by the gradient rules of its operators.

For one output `z`, inner tensors `h` and a direction `d` in the space of `z`, it gives `(dz/dh . d) * h`, summed over
all axes but the batch and one other: what scaling a channel would change in `z`, along `d`. Handlers add the nodes;
onnxruntime runs them. No framework is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
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


def gradient_model(analysis: Analysis, output: str, wanted: Mapping[str, int]) -> tuple[Model, dict[str, str]]:
    """Build a model that computes the gradient of an output with respect to given tensors.

    Args:
        analysis: the model's.
        output: the tensor whose gradient is taken.
        wanted: inner tensors, each with the axis along which its products are not summed.

    Returns:
        The model, whose inputs are the original's and `SEED`, and the name of its output for each wanted tensor;
        tensors that the output does not depend on have none.

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
    return graph.model(tuple(gradients.values())), gradients


class _Gradients:
    """Collects the nodes of the backward pass; implements `ops.base.Backward`."""

    def __init__(self, analysis: Analysis, output: str, wanted: set[str]) -> None:
        self._analysis = analysis
        self._output = output
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

    def model(self, outputs: Sequence[str]) -> Model:
        """The finished model: forward graph and backward pass."""
        source = self._analysis.model
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
        graph = proto.graph
        graph.node.extend(self._nodes)
        element = self._analysis.facts.dtypes[self._output]
        graph.input.append(onnx.ValueInfoProto(name=SEED))
        graph.input[-1].type.tensor_type.elem_type = element
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        for name, array in self._constants.items():
            data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.initializer.append(onnx.TensorProto(name=name, data_type=data_type, dims=[-1]))
            if proto.ir_version < 4:
                graph.input.append(helper.make_tensor_value_info(name, data_type, array.shape))
        constants = MappingProxyType({**source.constants, **self._constants})
        return Model(proto, constants, source.name)
