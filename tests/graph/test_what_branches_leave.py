"""The constant that a branch leaves when it goes whole: what takes it up, and how it gets there."""

import numpy as np
import pytest
from test_whole_branches import operators, without

from onnxprune.ops.examples import example


@pytest.mark.parametrize(
    ("layer", "weight", "left"),
    [
        ("Conv <group = 2>", (8, 2, 1, 1), ["Conv", "Conv"]),
        ("ConvTranspose", (4, 8, 1, 1), ["ConvTranspose", "Conv"]),
        ("ConvTranspose <group = 2>", (4, 4, 1, 1), ["ConvTranspose", "{join}", "Conv"]),
    ],
)
@pytest.mark.parametrize("join", ["Add", "Mul"])
def test_what_a_branch_leaves_goes_into_a_convolution(
    layer: str, weight: tuple[int, ...], left: list[str], join: str
) -> None:
    proto = example(
        f"""g (float[N,4,8,8] x) => (float[N,5,8,8] y) {{
        d = {layer} (x, wd)
        h = Conv (x, w1)
        r = Relu (h)
        k = Conv (r, w2, b2)
        t = {join} (k, d)
        y = Conv (t, w3) }}""",
        {"wd": weight, "w1": (12, 4, 1, 1), "w2": (8, 12, 1, 1), "b2": (8,), "w3": (5, 8, 1, 1)},
    )
    assert operators(without(proto, "h")) == [operator.format(join=join) for operator in left]


@pytest.mark.parametrize(
    ("nodes", "behind_a_sum", "behind_a_product"),
    [
        ("d = Gemm (x, wd)", "Gemm", "Gemm"),
        ("d = Gemm <transB = 1> (x, turned)", "Gemm", "Gemm"),
        ("d = Gemm <alpha = 0.5, beta = 2.0> (x, wd, c)", "Gemm", "Gemm"),
        ("d = Gemm <beta = 0.0> (x, wd, c)", "Gemm Add", "Gemm Mul"),
        ("b = Relu (z) d = Gemm (x, wd, b)", "Relu Gemm Add", "Relu Gemm Mul"),
        ("m = MatMul (x, wd) d = Add (m, c)", "MatMul Add", "MatMul Add Mul"),
        ("m = MatMul (x, wd) d = Mul (c, m)", "MatMul Mul Add", "MatMul Mul"),
        (
            "m = MatMul (x, wd) d = BatchNormalization (m, c, c, c, c)",
            "MatMul BatchNormalization",
            "MatMul BatchNormalization",
        ),
    ],
)
@pytest.mark.parametrize("join", ["Add", "Mul"])
def test_what_a_branch_leaves_goes_into_a_product(
    nodes: str, behind_a_sum: str, behind_a_product: str, join: str
) -> None:
    proto = example(
        f"""g (float[N,6] x, float[8] z) => (float[N,5] y) {{
        {nodes}
        h = Gemm (x, w1)
        r = Relu (h)
        k = Gemm (r, w2, b2)
        t = {join} (k, d)
        y = MatMul (t, w3) }}""",
        {"wd": (6, 8), "turned": (8, 6), "w1": (6, 12), "w2": (12, 8), "b2": (8,), "w3": (8, 5)},
        {"c": np.linspace(0.5, 2, 8, dtype=np.float32)},
    )
    left = behind_a_sum if join == "Add" else behind_a_product
    assert operators(without(proto, "h")) == [*left.split(), "MatMul"]


@pytest.mark.parametrize(
    "nodes",
    [
        "u = Reshape (k, column)",
        "u = Unsqueeze (k, last)",
        "v = Unsqueeze (k, last) w = Flatten (v) u = Reshape (w, column)",
    ],
)
def test_what_a_branch_leaves_is_reshaped(nodes: str) -> None:
    proto = example(
        f"""g (float[N,3,8,8] x) => (float[N,5,8,8] y) {{
        d = Conv (x, wd)
        p = GlobalAveragePool (d)
        f = Flatten (p)
        h = Gemm (f, w1)
        r = Relu (h)
        k = Gemm (r, w2, b2)
        {nodes}
        t = Mul (d, u)
        y = Conv (t, w3) }}""",
        {"wd": (8, 3, 1, 1), "w1": (8, 12), "w2": (12, 8), "b2": (8,), "w3": (5, 8, 1, 1)},
        {"column": np.array([-1, 8, 1, 1]), "last": np.array([2, 3])},
    )
    assert operators(without(proto, "h")) == ["Conv", "Conv"]


def test_what_a_branch_leaves_gets_an_axis_in_front_of_its_channels() -> None:
    proto = example(
        """g (float[N,5,6] x) => (float[N,5,3] y) {
        d = MatMul (x, wd)
        f = ReduceMean <keepdims = 0> (d, one)
        h = Gemm (f, w1)
        r = Relu (h)
        k = Gemm (r, w2, b2)
        u = Reshape (k, row)
        t = Mul (d, u)
        y = MatMul (t, w3) }""",
        {"wd": (6, 8), "w1": (8, 12), "w2": (12, 8), "b2": (8,), "w3": (8, 3)},
        {"row": np.array([-1, 1, 8]), "one": np.array([1])},
        opset=18,
    )
    assert operators(without(proto, "h")) == ["MatMul", "Mul", "MatMul"]


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
def test_a_computed_bias_takes_no_constant(layer: str) -> None:
    proto = example(
        f"""g (float[N,3,8,8] x, float[8] z) => (float[N,5,8,8] y) {{
        b = Relu (z)
        d = {layer} (x, wd, b)
        h = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (h)
        k = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        t = Add (k, d)
        y = Conv (t, w3) }}""",
        {"wd": (8, 3, 1, 1) if layer == "Conv" else (3, 8, 1, 1), "w1": (12, 3, 3, 3), "w2": (8, 12, 3, 3), "b2": (8,)}
        | {"w3": (5, 8, 1, 1)},
    )
    assert operators(without(proto, "h")) == ["Relu", layer, "Add", "Conv"]


@pytest.mark.parametrize(
    "nodes",
    [
        "u = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (k)",
        "e = Resize (k, , double) u = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)",
        "e = Resize (k, , double) u = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (e)",
        "u = GlobalAveragePool (k)",
        "e = GlobalMaxPool (k) u = Dropout (e)",
        "e = Transpose <perm = [0, 1, 3, 2]> (k) u = Sigmoid (e)",
    ],
)
def test_what_a_branch_leaves_is_the_same_everywhere(nodes: str) -> None:
    proto = example(
        f"""g (float[N,3,8,8] x) => (float[N,5,8,8] y) {{
        d = Conv (x, wd)
        h = Conv (x, w1)
        r = Relu (h)
        k = Conv (r, w2, b2)
        {nodes}
        t = Mul (u, d)
        y = Conv (t, w3) }}""",
        {"wd": (8, 3, 1, 1), "w1": (12, 3, 1, 1), "w2": (8, 12, 1, 1), "b2": (8,), "w3": (5, 8, 1, 1)},
        {"double": np.float32([1, 1, 2, 2])},
    )
    assert operators(without(proto, "h")) == ["Conv", "Conv"]
