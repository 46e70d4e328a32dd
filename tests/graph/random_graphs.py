"""Random graphs of the blocks that networks are made of, for property tests."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[st.SearchStrategy], object]
BATCH, SIZE = "N", 6


@dataclass
class Builder:
    """Nodes and weights of a graph that grows; `maps` are the images made so far, as `(name, channels)`, all 6 x 6."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    maps: list[tuple[str, int]] = field(default_factory=list)

    def weight(self, *shape: int, positive: bool = False) -> str:
        """A float initializer."""
        value = self.rng.standard_normal(shape) * np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
        return self.constant((np.abs(value) + 0.5 if positive else value).astype(np.float32))

    def constant(self, value: object) -> str:
        """Any initializer."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(value)
        return name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> str | list[str]:
        """Add a node; its output's name (a list of several)."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names


def conv(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    width, kernel = draw(st.integers(1, 8)), draw(st.sampled_from([1, 3]))
    group = draw(st.sampled_from([g for g in (1, 1, 2, 3) if c % g == 0]))
    width = width * group
    bias = [b.weight(width)] if draw(st.booleans()) else []
    w = b.weight(width, c // group, kernel, kernel)
    return b.node("Conv", x, w, *bias, group=group, pads=[kernel // 2] * 4), width


def depthwise(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    times = draw(st.sampled_from([1, 1, 2]))
    return b.node("Conv", x, b.weight(c * times, 1, 3, 3), group=c, pads=[1] * 4), c * times


def transposed(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    width = draw(st.integers(1, 6))
    return b.node("ConvTranspose", x, b.weight(c, width, 3, 3), b.weight(width), pads=[1] * 4), width


def norm(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    return b.node("BatchNormalization", x, *(b.weight(c) for _ in range(3)), b.weight(c, positive=True)), c


def activation(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    kind = draw(st.sampled_from(["Relu", "Sigmoid", "HardSwish", "Silu", "PRelu", "Erf"]))
    if kind == "Silu":
        return b.node("Mul", x, b.node("Sigmoid", x)), c
    return b.node(kind, x, *([b.weight(c, 1, 1)] if kind == "PRelu" else [])), c


def pool(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    kind = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    return b.node(kind, x, kernel_shape=[3, 3], pads=[1] * 4), c


def add(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    same = [name for name, width in b.maps if width == c]
    other = draw(st.sampled_from(same)) if draw(st.booleans()) else b.node("Conv", x, b.weight(c, c, 1, 1))
    return b.node(draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), x, other), c


def concat(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    other, width = draw(st.sampled_from(b.maps))
    return b.node("Concat", x, other, axis=1), c + width


def split(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    if c < 2:
        return x, c
    first = draw(st.integers(1, c - 1))
    left, right = b.node("Split", x, b.constant(np.array([first, c - first])), outputs=2, axis=1)
    b.maps.append((left, first))
    return right, c - first


def cut(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    start = draw(st.integers(0, c - 1))
    end = draw(st.integers(start + 1, c))
    return b.node(
        "Slice", x, *(b.constant(np.array([v])) for v in (start, end - c if end < c else 1000, 1))
    ), end - start


def gather(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    order = draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=c + 1))
    return b.node("Gather", x, b.constant(np.array(order)), axis=1), len(order)


def pad(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    begin, end = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return b.node("Pad", x, b.constant(np.array([0, begin, 0, 0, 0, end, 0, 0]))), c + begin + end


def shuffle(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    groups = draw(st.sampled_from([g for g in (2, 3, 4) if c % g == 0 and c > g] or [1]))
    y = b.node("Reshape", x, b.constant(np.array([0, groups, c // groups, SIZE, SIZE])))
    y = b.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", y, b.constant(np.array([0, c, SIZE, SIZE]))), c


def channels_last(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    width = draw(st.integers(1, 6))
    y = b.node("Transpose", x, perm=[0, 2, 3, 1])
    y = b.node("Relu", b.node("Add", b.node("MatMul", y, b.weight(c, width)), b.weight(width)))
    return b.node("Transpose", y, perm=[0, 3, 1, 2]), width


def gate(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    hidden = draw(st.integers(1, 4))
    y = b.node("Relu", b.node("Conv", b.node("GlobalAveragePool", x), b.weight(hidden, c, 1, 1)))
    return b.node("Mul", x, b.node("Sigmoid", b.node("Conv", y, b.weight(c, hidden, 1, 1)))), c


def resize(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    y = b.node("Resize", x, "", b.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return b.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), c


def dynamic(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    """To rows and back by computed shapes, as exporters write it."""
    shape = b.node("Shape", x)
    n = b.node("Slice", shape, *(b.constant(np.array([v])) for v in (0, 1)))
    channels = b.node("Slice", shape, *(b.constant(np.array([v])) for v in (1, 2)))
    flat = b.node("Reshape", x, b.node("Concat", n, channels, b.constant(np.array([-1])), axis=0))
    root = b.node("Sqrt", b.node("Cast", channels, to=TensorProto.FLOAT))
    return b.node("Reshape", b.node("Div", flat, root), shape), c


def attention(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    heads, depth = draw(st.sampled_from([2, 3])), draw(st.integers(1, 3))
    rows = b.node("Transpose", b.node("Reshape", x, b.constant(np.array([0, c, -1]))), perm=[0, 2, 1])
    q, k, v = (
        b.node(
            "Reshape", b.node("MatMul", rows, b.weight(c, heads * depth)), b.constant(np.array([0, 0, heads, depth]))
        )
        for _ in range(3)
    )
    scores = b.node("MatMul", b.node("Transpose", q, perm=[0, 2, 1, 3]), b.node("Transpose", k, perm=[0, 2, 3, 1]))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), b.node("Transpose", v, perm=[0, 2, 1, 3]))
    joined = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant(np.array([0, 0, -1])))
    out = b.node("Add", rows, b.node("MatMul", joined, b.weight(heads * depth, c)))
    return b.node("Reshape", b.node("Transpose", out, perm=[0, 2, 1]), b.constant(np.array([0, c, SIZE, SIZE]))), c


BLOCKS = (
    *(
        conv,
        conv,
        conv,
        depthwise,
        transposed,
        norm,
        activation,
        activation,
        pool,
        add,
        add,
        concat,
        split,
        cut,
        gather,
    ),
    *(pad, shuffle, channels_last, gate, resize, dynamic, attention),
)


@st.composite
def graphs(draw: Draw) -> onnx.ModelProto:
    """A model with one image input of three channels and one or two outputs."""
    b = Builder(np.random.default_rng(draw(st.integers(0, 1000))))
    b.maps.append((b.node("Conv", "x", b.weight(6, 3, 3, 3), b.weight(6), pads=[1] * 4), 6))
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=7)):
        name, width = draw(st.sampled_from(b.maps[-2:]))
        b.maps.append(block(b, draw, name, width))
    outputs = [_head(b, draw, *b.maps[-1])]
    if draw(st.booleans()):
        outputs.append(_head(b, draw, *draw(st.sampled_from(b.maps))))
    graph = helper.make_graph(
        b.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs],
        [numpy_helper.from_array(value, name) for name, value in b.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _head(b: Builder, draw: Draw, x: str, c: int) -> tuple[str, int]:
    kind = draw(st.sampled_from(["flatten", "pool", "mean", "map"]))
    if kind == "map":
        return b.node("Conv", x, b.weight(2, c, 1, 1)), 4
    if kind == "flatten":
        x, c = b.node("Flatten", x), c * SIZE * SIZE
    elif kind == "pool":
        x = b.node("Flatten", b.node("GlobalAveragePool", x))
    else:
        x = b.node("ReduceMean", x, axes=[2, 3], keepdims=0)
    hidden = b.node("Relu", b.node("Gemm", x, b.weight(5, c), b.weight(5), transB=1))
    return b.node("Softmax", b.node("Gemm", hidden, b.weight(5, 3)), axis=-1), 2
