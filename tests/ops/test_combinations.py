"""What single operators' examples do not show: half precision, shared weights, bodies, packed attention, shuffles."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import analysed, check_removal, random_removal

from onnxprune.graph.model import to_proto
from onnxprune.ops.examples import example


def pruned(model: onnx.ModelProto, units: int) -> onnx.ModelProto:
    """Check the number of prunable units, then removal at several widths; the last result."""
    a = analysed(model)
    assert a.prunable == units
    rng = np.random.default_rng(0)
    return to_proto([check_removal(a, random_removal(a, share, rng), batch=2) for share in (0.3, 0.6)][-1])


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the stored weights."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def test_half_precision_weights_stay_half() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        w1c = Cast <to = 1> (w1)
        h = MatMul (x, w1c)
        i = Cast <to = 10> (h)
        j = MatMul (i, w2)
        k = Cast <to = 1> (j)
        y = MatMul (k, w3) }""",
        {"w3": (5, 3)},
        {
            "w1": np.random.default_rng(0).standard_normal((6, 8)).astype(np.float16),
            "w2": np.random.default_rng(1).standard_normal((8, 5)).astype(np.float16),
        },
    )
    smaller = pruned(model, 13)
    types = {t.name: t.data_type for t in smaller.graph.initializer}
    assert types == {"w1": TensorProto.FLOAT16, "w2": TensorProto.FLOAT16, "w3": TensorProto.FLOAT}


def test_a_weight_shared_by_two_layers() -> None:
    smaller = pruned(
        example(
            """g (float[N,8] x) => (float[N,3] y) {
            h = MatMul (x, w0)
            i = MatMul (h, w)
            r = Relu (i)
            j = MatMul (r, w)
            y = MatMul (j, w2) }""",
            {"w0": (8, 8), "w": (8, 8), "w2": (8, 3)},
        ),
        8,
    )
    left = shapes(smaller)["w"][0]
    assert left < 8
    assert shapes(smaller) == {"w0": (8, left), "w": (left, left), "w2": (left, 3)}


def test_a_constant_that_one_reader_does_not_follow() -> None:
    a = analysed(
        example(
            """g (float[N,6] x) => (float[N,3] y, float[6,8] z) {
            h = MatMul (x, w1)
            y = MatMul (h, w2)
            z = Identity (w1) }""",
            {"w1": (6, 8), "w2": (8, 3)},
        )
    )
    assert a.prunable == 0


@pytest.mark.parametrize("packed", ["BTKHD", "split"])
def test_packed_attention(packed: str) -> None:
    if packed == "split":
        parts = """q0, k0, v0 = Split <axis = 2> (p, thirds)
            q1 = Reshape (q0, heads)
            k1 = Reshape (k0, heads)
            v1 = Reshape (v0, heads)"""
    else:
        parts = """s = Reshape (p, five)
            q1 = Gather <axis = 2> (s, zero)
            k1 = Gather <axis = 2> (s, one)
            v1 = Gather <axis = 2> (s, two)"""
    model = example(
        f"""g (float[N,5,6] x) => (float[N,5,3] y) {{
        p = MatMul (x, wp)
        {parts}
        q = Transpose <perm = [0, 2, 1, 3]> (q1)
        k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v = Transpose <perm = [0, 2, 1, 3]> (v1)
        a = MatMul (q, k)
        b = Softmax <axis = -1> (a)
        c = MatMul (b, v)
        d = Transpose <perm = [0, 2, 1, 3]> (c)
        e = Reshape (d, flat)
        y = MatMul (e, wo) }}""",
        {"wp": (6, 36), "wo": (12, 3)},
        {
            "thirds": np.array([12, 12, 12]),
            "heads": np.array([0, 0, 4, 3]),
            "five": np.array([0, 0, 3, 4, 3]),
            "flat": np.array([0, 0, 12]),
            **{name: np.array(value) for value, name in enumerate(("zero", "one", "two"))},
        },
    )
    left = shapes(pruned(model, 4))
    heads = left["wo"][0] // 3
    assert heads < 4
    assert left["wp"] == (6, 3 * 3 * heads)


def test_what_a_body_reads_stays() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["h"], ["inside"])],
        "body",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, ["N", 8])],
    )
    rng = np.random.default_rng(0)
    weights = {
        f"w{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate([(6, 8), (8, 7), (7, 3)])
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["h"]),
            helper.make_node("If", ["yes"], ["c"], name="branch", then_branch=inner, else_branch=inner),
            helper.make_node("MatMul", ["c", "w1"], ["i"]),
            helper.make_node("MatMul", ["i", "w2"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()] + [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pruned(model, 7)
    reasons = {item.node: item.reason for item in analysed(model).not_pruned}
    assert reasons["branch"] == "the body of If reads it, and bodies are not followed"


def test_flattening_positions_that_vary_keeps_channels() -> None:
    a = analysed(
        example(
            """g (float[N,3,H,W] x) => (float[N,A] y) {
            h = Conv (x, w1)
            y = Flatten (h) }""",
            {"w1": (8, 3, 1, 1)},
        )
    )
    assert a.prunable == 0


def test_a_batch_merged_with_heads_keeps_the_heads() -> None:
    model = example(
        """g (float[N,5,6] x) => (float[A,B] y) {
        h = MatMul (x, w1)
        r = Reshape (h, heads)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        m = Reshape (t, merged)
        y = ReduceSum <keepdims = 0> (m, last) }""",
        {"w1": (6, 8)},
        {"heads": np.array([0, 0, 2, 4]), "merged": np.array([-1, 5, 4]), "last": np.array([-1])},
    )
    assert [len(group) for group in analysed(model).groups] == [4]  # positions within a head
    assert shapes(pruned(model, 4))["w1"][1] % 2 == 0


@pytest.mark.parametrize(
    ("up", "units"),
    [
        ("ConvTranspose <strides = [2, 2]> (m, w3)", 6 + 8 + 8 + 5),
        ('Resize <mode = "nearest"> (m, , scales)', 6 + 8 + 5),
    ],
)
def test_a_u_net_is_pruned_through_its_skips(up: str, units: int) -> None:
    model = example(
        f"""g (float[N,3,H,W] x) => (float[N,2,A,B] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        e = Relu (a)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
        b = Conv <pads = [1, 1, 1, 1]> (p, w2)
        m = Relu (b)
        u = {up}
        c = Concat <axis = 1> (u, e)
        d = Conv <pads = [1, 1, 1, 1]> (c, w4)
        y = Conv (d, w5) }}""",
        {"w1": (6, 3, 3, 3), "w2": (8, 6, 3, 3), "w3": (8, 8, 2, 2), "w4": (5, 14, 3, 3), "w5": (2, 5, 1, 1)},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    left = shapes(pruned(model, units))
    upsampled = left["w3"][1] if "ConvTranspose" in up else left["w2"][0]
    assert left["w4"][1] == upsampled + left["w1"][0]
    assert left["w1"][0] < 6
    assert upsampled < 8


def test_an_input_joined_beside_channels_is_not_exchanged_for_them() -> None:
    """Parts of equal length stood for each other where one had labels and the other none: `h` was read twice."""
    model = example(
        """g (float[N,3,6,6] x, float[N,8,6,6] z) => (float[N,4,A,B] y) {
        h = Conv (x, w1)
        c = Concat <axis = 2> (h, z)
        d = Conv (c, w2)
        y = Conv (d, w3) }""",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1), "w3": (4, 5, 1, 1)},
    )
    smaller = pruned(model, 5)
    assert [node.input for node in smaller.graph.node if node.op_type == "Concat"] == [["h", "z"]]


@pytest.mark.parametrize(
    ("second", "units"),
    [
        ("t = Transpose (w1) y = MatMul (r, t)", 8),
        ("t = Cast <to = 1> (w1) u = Transpose <perm = [1, 0]> (t) y = MatMul (r, u)", 8),
        (
            "t = Concat <axis = 1> (w1, w2) k = MatMul (x, t) l = MatMul (k, w3) m = MatMul (r, w4) y = Add (l, m)",
            8 + 13,
        ),
    ],
)
def test_a_weight_that_is_read_as_it_is_and_rearranged(second: str, units: int) -> None:
    """The weight stayed whole because of the node that only makes another constant of it."""
    model = example(
        f"""g (float[N,6] x) => (float[N,6] y) {{
        h = MatMul (x, w1)
        r = Relu (h)
        {second} }}""",
        {"w1": (6, 8), "w2": (6, 5), "w3": (13, 6), "w4": (8, 6)},
    )
    assert analysed(model).prunable == units
    pruned(model, units)
