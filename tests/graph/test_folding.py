"""What depends on constants alone is known, whatever computes it, and never larger than a bound."""

import resource

import numpy as np
import onnx
import pytest
from onnx import helper
from oracle import analysed, check_removal, random_removal

from onnxprune.lossless import lossless
from onnxprune.ops.examples import example

BASE = {"v": (12, 24), "w2": (24, 5)}


def network(weight: str, opset: int = 17, **constants: np.ndarray) -> onnx.ModelProto:
    """Two layers; `weight` are nodes that make the first one's weight `w`, 12 x 24, of `v` and other constants."""
    return example(
        f"""g (float[N,12] x) => (float[N,5] y) {{
        {weight}
        h = MatMul (x, w)
        r = Relu (h)
        y = MatMul (r, w2) }}""",
        BASE,
        constants,
        opset,
    )


@pytest.mark.parametrize(
    "weight",
    [
        "n = ReduceL2 <axes = [0], keepdims = 1> (v) w = Div (v, n)",
        "n = ReduceSumSquare <axes = [0], keepdims = 1> (v) s = Sqrt (n) w = Div (v, s)",
        "w = LpNormalization <axis = 0, p = 2> (v)",
        "w = Softmax <axis = 0> (v)",
        "w = LayerNormalization <axis = 1> (v, scale)",
        'l = Einsum <equation = "ij,jk->ik"> (left, right) w = Add (v, l)',
        "l = MatMul (left, right) w = Add (v, l)",
        "f = Identity (v) g = Celu (f) n = ReduceL1 <axes = [1], keepdims = 1> (g) w = Div (g, n)",
        "e = EyeLike (square) w = MatMul (e, v)",
        "i = Sign (square) w = MatMul (i, v)",
        "c = ConstantOfShape <value = float[1] {3.0}> (sizes) w = Mul (v, c)",
    ],
)
def test_weights_made_by_any_operator_are_pruned(weight):
    proto = network(
        weight,
        scale=np.linspace(0.5, 2, 24, dtype=np.float32),
        left=np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32),
        right=np.random.default_rng(2).standard_normal((3, 24)).astype(np.float32),
        square=np.eye(12, dtype=np.float32) + 0.1,
        sizes=np.array([12, 24]),
    )
    for node in proto.graph.node:
        if node.op_type == "Sign":  # one that only onnxruntime has
            node.op_type, node.domain = "Inverse", "com.microsoft"
            proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    a = analysed(proto)
    assert a.prunable == 24
    assert [layer.node for layer in a.layers] == ["h", "y"]
    smaller = check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)), batch=2)
    assert {node.op_type for node in smaller.proto.graph.node} == {"MatMul", "Relu"}


def test_weights_that_are_cut_out_at_a_fixed_width_are_pruned() -> None:
    """As torch writes cross-attention: a packed weight is cut at the width of another tensor; nothing followed it."""
    weight = """s = Shape (x) e = Gather (s, one) end = Unsqueeze (e, zero) top = Slice (packed, zero, end, zero)
        more = Add (end, end) rest = Slice (packed, end, more, zero) t = Add (top, rest) w = Transpose (t)"""
    packed = np.random.default_rng(0).standard_normal((24, 12)).astype(np.float32)
    text = f"""g (float[N,12] x) => (float[N,5] y) {{
        {weight}
        h = MatMul (x, w)
        r = Relu (h)
        y = MatMul (r, w2) }}"""
    a = analysed(example(text, {"w2": (12, 5)}, {"packed": packed, "one": np.array(1), "zero": np.array([0])}))
    assert a.prunable == 12
    check_removal(a, random_removal(a, 0.5, np.random.default_rng(0)))


def test_what_sizes_alone_make_stays_computed() -> None:
    text = """g (float[N,12] x) => (float[N,5] y) {
        h = MatMul (x, v)  s = Shape (h)  e = Gather (s, one)  c = Cast <to = 1> (e)  q = Sqrt (c)
        d = Div (h, q)  r = Relu (d)  y = MatMul (r, w2) }"""
    a = analysed(example(text, BASE, {"one": np.array(1)}))
    assert "e" in a.facts.folded
    assert "q" not in a.facts.folded


def test_a_product_of_large_constants_is_computed_too():
    """A low-rank correction of a weight, larger than what is computed at once."""
    proto = network(
        "l = MatMul (left, right) m = MatMul (l, narrow) w = Add (v, m)",
        left=np.full((12, 6000), 0.001, np.float32),
        right=np.full((6000, 40), 0.01, np.float32),
        narrow=np.full((40, 24), 0.1, np.float32),
    )
    assert analysed(proto).prunable == 24


def test_what_is_drawn_anew_in_every_run_is_no_constant():
    a = analysed(network("n = RandomNormalLike (v) w = Add (v, n)"))
    assert "w" not in a.facts.folded
    assert a.prunable == 0


HUGE = np.array([1 << 20, 1 << 20], np.int64)


@pytest.mark.parametrize(
    "nodes",
    [
        "big = ConstantOfShape (huge) t = ReduceMax <keepdims = 0> (big)",
        "big = Expand (one, huge) t = ReduceMax <keepdims = 0> (big)",
        "big = Tile (one, huge) t = ReduceMax <keepdims = 0> (big)",
        "big = Add (column, row) t = ReduceMax <keepdims = 0> (big)",
        "big = Where (positive, column, row) t = ReduceMax <keepdims = 0> (big)",
        "big = MatMul (column, row) t = ReduceMax <keepdims = 0> (big)",
        "big = Range (nought, last, step) t = ReduceMax <keepdims = 0> (big)",
        "big = Gather (row, many) t = ReduceMax <keepdims = 0> (big)",
        'big = Einsum <equation = "ij,jk->ik"> (column, row) t = ReduceMax <keepdims = 0> (big)',
        "".join(f"d{i + 1} = Concat <axis = 1> (d{i}, d{i})\n" for i in range(40))
        + "t = ReduceMax <keepdims = 0> (d40)",
    ],
)
def test_constants_that_grow_without_end_are_left_alone(nodes):
    proto = example(
        f"""g (float[N,12] x) => (float[N,5] y) {{
        d0 = Identity (row)
        {nodes}
        h = MatMul (x, v)
        s = Mul (h, t)
        r = Relu (s)
        y = MatMul (r, w2) }}""",
        BASE,
        {
            "huge": HUGE,
            "one": np.ones((1, 1), np.float32),
            "column": np.ones((1 << 15, 1), np.float32),
            "row": np.ones((1, 1 << 15), np.float32),
            "positive": np.ones((1, 1), bool),
            "many": np.zeros(1 << 15, np.int64),
            "nought": np.float32(0),
            "last": np.float32(1e12),
            "step": np.float32(1),
        },
        full_check=False,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    a = analysed(proto)
    assert sum(value.size for value in a.facts.folded.values()) <= 1 << 27
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 1_200_000_000
    assert [layer.node for layer in a.layers] == ["h", "y"]


def test_constants_that_one_by_one_are_small_are_bounded_together():
    nodes = "".join(f"b{i} = Expand (one, large)\n c{i} = Neg (b{i})\n" for i in range(40))
    total = " ".join(f"t{i + 1} = Add (t{i}, m{i})" for i in range(40))
    maxima = "".join(f"m{i} = ReduceMax <keepdims = 0> (c{i})\n" for i in range(40))
    proto = example(
        f"""g (float[N,12] x) => (float[N,5] y) {{
        {nodes} {maxima} t0 = ReduceMax <keepdims = 0> (one) {total}
        h = MatMul (x, v)
        s = Mul (h, t40)
        y = MatMul (s, w2) }}""",
        BASE,
        {"one": np.ones((1, 1), np.float32), "large": np.array([3000, 3000])},
    )
    a = analysed(proto)
    assert sum(value.size for value in a.facts.folded.values()) <= (1 << 27) + 9_000_000
    assert a.prunable == 24


@pytest.mark.parametrize("asked", [None, True])
def test_dropout_that_was_asked_to_train_is_no_constant_and_makes_no_equal_units(asked):
    """A draw was taken for the value of a Dropout of constants, and equal units behind a mask for equal."""
    first = np.random.default_rng(0).standard_normal((12, 24)).astype(np.float32)
    first[:, 1] = first[:, 0]
    proto = example(
        f"""g (float[N,12] x) => (float[N,5] y) {{
        c = Dropout (half{"" if asked is None else ", ratio, asked"})
        h = MatMul (x, w)
        k = Add (h, c)
        d = Dropout (k{"" if asked is None else ", ratio, asked"})
        y = MatMul (d, w2) }}""",
        {"w2": (24, 5)},
        {"w": first, "half": np.full(24, 0.5, np.float32), "ratio": np.float32(0.5), "asked": np.array(True)},
    )
    analysis = analysed(proto)
    assert analysis.prunable == 24
    assert (analysis.value("c") is None) == (asked is True)
    assert lossless(analysis).copies == (0 if asked else 1)


def test_a_type_that_the_operator_does_not_take_is_no_crash() -> None:
    # Float8 zero points came with a later version of DequantizeLinear.
    model = example(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        w = DequantizeLinear <axis = 0> (wq, ws, wz)
        y = Conv (x, w) }""",
        {"ws": (4,)},
        {"wq": np.ones((4, 3, 1, 1), np.int8), "wz": np.zeros(4, np.int8)},
    )
    (zero,) = (tensor for tensor in model.graph.initializer if tensor.name == "wz")
    zero.data_type = onnx.TensorProto.FLOAT8E4M3FNUZ
    assert analysed(model).model.constants["wz"].dtype.name == "float8_e4m3fnuz"  # whoever runs it refuses it
