"""Models to measure scale on, with weights drawn from a seed.

`light:NAME` is a graph of the onnx package such as `resnet50` or `vgg19`; `stack:LAYERSxWIDTH` so many 3x3 convolutions
of that width with ReLUs on images of 16x16; `residual:BLOCKSxWIDTH` so many blocks of two of them with an addition;
`encoder:LAYERSxWIDTH` a transformer encoder on 64 tokens, with heads of 64
and four times the width inside its multilayer perceptrons.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
_TOKENS, _FEATURES, _HEAD, _CLASSES = 64, 32, 64, 10


def made(name: str) -> onnx.ModelProto | None:
    """The model that a name stands for; None where it is a file."""
    kind, _, rest = name.partition(":")
    if kind == "light":
        return filled(rest)
    if kind in ("stack", "residual", "encoder"):
        layers, _, width = rest.partition("x")
        return {"stack": stack, "residual": residual, "encoder": encoder}[kind](int(layers), int(width))
    return None


def filled(name: str) -> onnx.ModelProto:
    """A graph of the onnx package with seeded weights in place of its ConstantOfShape nodes."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    rng = np.random.default_rng(0)
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = tuple(int(size) for size in stored[node.input[0]])
        spread = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.1
        value = rng.standard_normal(shape, np.float32) * np.float32(spread)
        if len(shape) < 2:  # perhaps a variance
            value = np.abs(value) + np.float32(0.5)
        proto.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.ir_version = 4  # before, every initializer would have to be an input as well
    read = {name for node in nodes for name in node.input}
    for field in (proto.graph.initializer, proto.graph.input):
        kept = [each for each in field if each.name in read]
        del field[:]
        field.extend(kept)
    return proto


def stack(layers: int, width: int) -> onnx.ModelProto:
    """Convolutions one behind the other, a pooling and a classifier."""
    graph = _Graph()
    last = graph.convolution("image", 3, width, "conv0")
    for number in range(1, layers):
        last = graph.convolution(graph.node("Relu", [last]), width, width, f"conv{number}")
    return graph.classifier(graph.node("Relu", [last]), width)


def residual(blocks: int, width: int) -> onnx.ModelProto:
    """Blocks of two convolutions, each added to what it read, a pooling and a classifier."""
    graph = _Graph()
    last = graph.node("Relu", [graph.convolution("image", 3, width, "stem")])
    for number in range(blocks):
        inner = graph.node("Relu", [graph.convolution(last, width, width, f"first{number}")])
        last = graph.node(
            "Relu", [graph.node("Add", [last, graph.convolution(inner, width, width, f"second{number}")])]
        )
    return graph.classifier(last, width)


def encoder(layers: int, width: int) -> onnx.ModelProto:
    """A transformer encoder that normalises behind each addition, the mean over tokens and a classifier."""
    graph = _Graph()

    def linear(value: str, inputs: int, outputs: int, name: str) -> str:
        weight, bias = graph.dense(inputs, outputs)
        return graph.node("Add", [graph.node("MatMul", [value, weight], name=name), bias])

    def heads(value: str, order: list[int]) -> str:
        shape = graph.constant(np.array([0, _TOKENS, width // _HEAD, _HEAD]))
        return graph.node("Transpose", [graph.node("Reshape", [value, shape])], perm=order)

    def added(value: str, other: str) -> str:
        scale, shift = graph.constant(np.ones(width, np.float32)), graph.constant(np.zeros(width, np.float32))
        return graph.node("LayerNormalization", [graph.node("Add", [value, other]), scale, shift], axis=-1)

    last = linear("tokens", _FEATURES, width, "embed")
    root = graph.constant(np.array(_HEAD**0.5, np.float32))
    for number in range(layers):
        query, key, each = (linear(last, width, width, f"{name}{number}") for name in ("query", "key", "value"))
        products = graph.node("MatMul", [heads(query, [0, 2, 1, 3]), heads(key, [0, 2, 3, 1])])
        shares = graph.node("Softmax", [graph.node("Div", [products, root])], axis=-1)
        mixed = graph.node("Transpose", [graph.node("MatMul", [shares, heads(each, [0, 2, 1, 3])])], perm=[0, 2, 1, 3])
        joined = graph.node("Reshape", [mixed, graph.constant(np.array([0, _TOKENS, width]))])
        last = added(last, linear(joined, width, width, f"out{number}"))
        inside = graph.node("Gelu", [linear(last, width, 4 * width, f"up{number}")])
        last = added(last, linear(inside, 4 * width, width, f"down{number}"))
    mean = graph.node("ReduceMean", [last, graph.constant(np.array([1]))], keepdims=0)
    graph.node("Gemm", [mean, *graph.dense(width, _CLASSES)], name="fc", output="logits")
    return graph.model("tokens", (_TOKENS, _FEATURES))


class _Graph:
    """Nodes and constants under numbered names."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: list[str], output: str = "", name: str = "", **attributes: Any) -> str:
        """Add a node; its output's name."""
        label = name or f"{op_type.lower()}{len(self._nodes)}"
        output = output or f"{label}_out"
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=label, **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        """Add a constant; its name."""
        self._constants.append(numpy_helper.from_array(value, f"c{len(self._constants)}"))
        return self._constants[-1].name

    def weight(self, shape: tuple[int, ...], variance: float) -> str:
        """Add a weight; its name."""
        return self.constant(self._rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(variance)))

    def dense(self, inputs: int, outputs: int) -> tuple[str, str]:
        """Add weight and bias of a dense layer; their names."""
        return self.weight((inputs, outputs), 1 / inputs), self.constant(np.zeros(outputs, np.float32))

    def convolution(self, value: str, inputs: int, outputs: int, name: str) -> str:
        """Add a 3x3 convolution; its output's name."""
        kernel = self.weight((outputs, inputs, 3, 3), 2 / (9 * inputs))
        return self.node("Conv", [value, kernel, self.constant(np.zeros(outputs, np.float32))], name=name, pads=[1] * 4)

    def classifier(self, value: str, width: int) -> onnx.ModelProto:
        """Pool, add a dense layer, and end."""
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [value])])
        self.node("Gemm", [pooled, *self.dense(width, _CLASSES)], name="fc", output="logits")
        return self.model("image", (3, 16, 16))

    def model(self, name: str, row: tuple[int, ...]) -> onnx.ModelProto:
        """The model, from an input of this name and shape of a row to `logits`."""
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "scale",
            [info(name, TensorProto.FLOAT, ["n", *row])],
            [info("logits", TensorProto.FLOAT, ["n", _CLASSES])],
            self._constants,
        )
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
