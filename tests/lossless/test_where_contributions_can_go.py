"""Contributions move only into weights and biases that can take them: of one channel, of no other use, large enough."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from oracle import analysed, assert_close, random_feed, run

from onnxprune.lossless import Lossless, lossless
from onnxprune.lossless.intervals import bounds
from onnxprune.ops.examples import example
from onnxprune.structure.removal import remove

DENSE = "h = Gemm (x, w1, b1) a = Relu (h) y = Gemm (a, w2, b2)"
SHAPES = {"w1": (6, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}


def with_values(proto: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return proto


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer}


def found_without_change(proto: onnx.ModelProto) -> Lossless:
    a = analysed(proto)
    found = lossless(a)
    feed = random_feed(a, np.random.default_rng(0), batch=3)
    wanted = run(a.model, feed)
    for model in (found.model, remove(found.analysis, found.removed)):
        assert_close(run(model, feed), wanted, wanted)
    return found


def two_constant_units(proto: onnx.ModelProto) -> onnx.ModelProto:
    values = weights(proto)
    values["w1"][:, [1, 2]], values["b1"][[1, 2]] = 0.0, (2.0, 5.0)
    return with_values(proto, values)


@pytest.mark.parametrize(
    "graph",
    [
        f"g (float[N,6] x) => (float[N,3] y, float[3] b2) {{ {DENSE} }}",
        f"""g (float[N,6] x, bool q) => (float[N,3] y, float[3] o) {{ {DENSE}
        o = If (q) <then_branch = t () => (float[3] p) {{ p = Identity (b2) }},
                    else_branch = e () => (float[3] n) {{ n = Neg (b2) }}> }}""",
    ],
)
def test_a_bias_that_others_see_stays_as_it_is(graph: str) -> None:
    found = found_without_change(two_constant_units(example(graph, SHAPES)))
    assert found.constant == 0


def test_a_bias_of_this_layer_alone_takes_them() -> None:
    graph = f"g (float[N,6] x) => (float[N,3] y) {{ {DENSE} }}"
    assert found_without_change(two_constant_units(example(graph, SHAPES))).constant == 2


def test_a_bias_of_one_number_a_row_makes_no_channel_constant() -> None:
    proto = example(f"g (float[8,6] x) => (float[8,3] y) {{ {DENSE} }}", SHAPES | {"b1": (8, 1)})
    values = weights(proto)
    values["w1"][:, [1, 2]] = 0.0
    assert found_without_change(with_values(proto, values)).constant == 0


def half(proto: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


@pytest.mark.parametrize(("size", "copies"), [(20_000.0, 1), (40_000.0, 0)])
def test_half_precision_holds_no_sum_of_weights_beyond_its_range(size: float, copies: int) -> None:
    proto = example(f"g (float[N,6] x) => (float[N,3] y) {{ {DENSE} }}", SHAPES)
    values = weights(proto)
    values["w1"] *= 1e-3
    values["b1"] *= 1e-3
    values["w1"][:, 5], values["b1"][5] = values["w1"][:, 4], values["b1"][4]
    values["w2"][[4, 5]] = size
    assert found_without_change(half(with_values(proto, values))).copies == copies


@pytest.mark.parametrize(("size", "constant"), [(200.0, 2), (300.0, 0)])
def test_half_precision_holds_no_bias_beyond_its_range(size: float, constant: int) -> None:
    proto = example(f"g (float[N,6] x) => (float[N,3] y) {{ {DENSE} }}", SHAPES)
    values = weights(proto)
    values["w1"][:, [1, 2]], values["b1"][[1, 2]] = 0.0, size
    values["w2"][1], values["w2"][2], values["b2"][:] = size, -size, 0.0
    assert found_without_change(half(with_values(proto, values))).constant == constant


def test_bounds_of_a_product_of_unknown_shape_are_not_known() -> None:
    proto = example(
        """g (float[N,3,6,6] x, float[4] z) => (float[a,b,c,d] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        s = Cast <to = 7> (z)
        t = Slice (s, first, last)
        o = ConstantOfShape (t)
        m = Mul (c, o)
        n = Add (m, bias)
        y = Relu (n) }""",
        {"w": (8, 3, 3, 3), "b": (8,), "bias": (1, 8, 1, 1)},
        {"first": np.array([0]), "last": np.array([4])},
    )
    a = analysed(proto)
    assert "m" not in a.facts.shapes
    known = bounds(a)
    assert "c" in known
    assert not {"m", "n", "y"} & {*known}


def test_positions_are_no_channels_where_channels_become_rows() -> None:
    """`Flatten` at axis 2 puts positions where channels were expected, and bounds were taken for theirs."""
    proto = example(
        """g (float[1,3,4,4] x) => (float[8,3] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        f = Flatten <axis = 2> (r)
        h = Gemm (f, w1, b1)
        a = Relu (h)
        y = Gemm (a, w2, b2) }""",
        {"w": (8, 3, 3, 3), "b": (8,), "w1": (16, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)},
    )
    values = weights(proto)
    values["w"][0], values["b"][0] = 0.0, -1.0
    values["w1"][2:, 5], values["b1"][5] = 0.0, 3.0  # reads two positions, which are not the silent channel
    found = found_without_change(with_values(proto, values))
    assert found.constant == 0
