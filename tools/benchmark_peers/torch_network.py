"""A torch network of `nn` modules that holds an ONNX file's weights, as a torch tool needs it.

The operators of the benchmark's convolutional and fully connected networks are known; anything else raises. Equality
with the file is checked where the network is used.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import fx, nn
from torch.nn import functional

Values = dict[str, Any]
_PLUMBING = frozenset({"Constant", "Shape", "Gather", "Unsqueeze", "Concat"})  # computes a Reshape's target


class Builder:
    """Turns nodes, one by one, into a `torch.fx` graph over modules.

    Args:
        proto: a simplified model: weights are initializers, shapes are constants.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.graph = fx.Graph()
        self.root = nn.ModuleDict()
        source = proto.graph.input[0].name
        self.values: Values = {source: self.graph.placeholder("x")}
        for node in proto.graph.node:
            if node.op_type not in _PLUMBING:
                self.values[node.output[0]] = self._call(node)
        self.graph.output(self.values[proto.graph.output[0].name])

    def module(self) -> Any:
        """The network, in evaluation mode."""
        return fx.GraphModule(self.root, self.graph).eval()

    def _call(self, node: onnx.NodeProto) -> Any:
        rule = _RULES.get(node.op_type)
        if rule is None:
            raise SystemExit(f"node {node.name!r}: {node.op_type} is not known to benchmark_peers/torch_network.py")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return rule(self, node, attributes)

    def layer(self, node: onnx.NodeProto, module: Any, parameters: Mapping[str, np.ndarray | None]) -> Any:
        """Add a module with these parameters, named after its weight, and call it on the node's first input."""
        with torch.no_grad():
            for name, array in parameters.items():
                if array is not None:
                    getattr(module, name).copy_(torch.from_numpy(array.copy()))
        name = node.input[1].removesuffix(".weight").replace(".", "_").replace(":", "_")
        self.root[name] = module
        return self.graph.call_module(name, (self.values[node.input[0]],))

    def function(self, target: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Add a call of a function."""
        return self.graph.call_function(target, arguments, options)

    def optional(self, node: onnx.NodeProto, position: int) -> np.ndarray | None:
        """A constant input, or None where there is none."""
        if position >= len(node.input) or not node.input[position]:
            return None
        return self.constants[node.input[position]]


def _padding(attributes: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Symmetric padding of a convolution, and what `functional.pad` must add first where it is not symmetric."""
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise SystemExit("auto_pad is not known to benchmark_peers/torch_network.py")
    top, left, bottom, right = pads
    return ([top, left], []) if (top, left) == (bottom, right) else ([0, 0], [left, right, top, bottom])


def _conv(build: Builder, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Any:
    weight, bias = build.constants[node.input[1]], build.optional(node, 2)
    groups = int(attributes.get("group", 1))
    padding, first = _padding(attributes)
    if first:
        build.values[node.input[0]] = build.function(functional.pad, build.values[node.input[0]], first)
    module = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        stride=attributes.get("strides", [1, 1]),
        padding=padding,
        dilation=attributes.get("dilations", [1, 1]),
        groups=groups,
        bias=bias is not None,
    )
    return build.layer(node, module, {"weight": weight, "bias": bias})


def _gemm(build: Builder, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Any:
    weight, bias = build.constants[node.input[1]], build.optional(node, 2)
    weight = weight if attributes.get("transB", 0) else weight.T
    return build.layer(node, nn.Linear(weight.shape[1], weight.shape[0]), {"weight": weight, "bias": bias})


def _normalisation(build: Builder, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Any:
    names = ("weight", "bias", "running_mean", "running_var")
    arrays = [build.constants[name] for name in node.input[1:]]
    module = nn.BatchNorm2d(len(arrays[0]), eps=attributes.get("epsilon", 1e-5))
    return build.layer(node, module, dict(zip(names, arrays, strict=True)))


def _pad(build: Builder, node: onnx.NodeProto, _: Mapping[str, Any]) -> Any:
    amounts = build.constants[node.input[1]].reshape(2, -1)
    # torch counts from the last axis, and pairs what comes before with what comes after.
    pairs = [int(v) for v in amounts.T[::-1].ravel()]
    return build.function(functional.pad, build.values[node.input[0]], pairs)


def _slice(build: Builder, node: onnx.NodeProto, _: Mapping[str, Any]) -> Any:
    starts, ends, axes, steps = (build.constants[name].tolist() for name in node.input[1:5])
    cut = [slice(None)] * (max(axes) + 1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, min(end, 2**31 - 1), step)
    return build.function(operator.getitem, build.values[node.input[0]], tuple(cut))


def _clip(build: Builder, node: onnx.NodeProto, _: Mapping[str, Any]) -> Any:
    low, high = (build.constants[name].item() for name in node.input[1:3])
    return build.function(functional.hardtanh, build.values[node.input[0]], low, high)


def _add(build: Builder, node: onnx.NodeProto, _: Mapping[str, Any]) -> Any:
    return build.function(operator.add, build.values[node.input[0]], build.values[node.input[1]])


def _average(build: Builder, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Any:
    return build.function(functional.avg_pool2d, build.values[node.input[0]], attributes["kernel_shape"])


_RULES: dict[str, Callable[[Builder, onnx.NodeProto, Mapping[str, Any]], Any]] = {
    "Add": _add,
    "AveragePool": _average,
    "BatchNormalization": _normalisation,
    "Clip": _clip,
    "Conv": _conv,
    "Flatten": lambda build, node, _: build.function(torch.flatten, build.values[node.input[0]], 1),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda b, node, _: b.function(functional.adaptive_avg_pool2d, b.values[node.input[0]], 1),
    "Pad": _pad,
    "Relu": lambda build, node, _: build.function(functional.relu, build.values[node.input[0]]),
    # Every Reshape of these networks flattens; the comparison of the outputs would show one that does not.
    "Reshape": lambda build, node, _: build.function(torch.flatten, build.values[node.input[0]], 1),
    "Slice": _slice,
}
