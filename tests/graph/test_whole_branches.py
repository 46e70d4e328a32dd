"""Whole branches: all units of a group go, and everything that only feeds them."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracle import analysed, assert_close, check_removal, random_feed, run
from random_graphs import graphs
from residual import NETWORK, WEIGHTS

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model, to_proto
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.branches import branches
from onnxprune.structure.cut import find_cut
from onnxprune.structure.removal import remove
from onnxprune.structure.units import Ids

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
property_test = settings(max_examples=60, deadline=None, suppress_health_check=SLOW, derandomize=True)


def whole(a: Analysis, *names: str) -> Ids:
    """All units of the named groups, and what goes with them."""
    removed = a.none_removed()
    for group in a.groups:
        if group.name in names:
            removed[group.units] = True
    return find_cut(a, removed).removed


def without(proto: onnx.ModelProto, *names: str, batch: int = 2) -> Model:
    """The model without these groups, once it agrees with the oracle."""
    a = analysed(proto)
    return check_removal(a, whole(a, *names), batch=batch)


def operators(model: Model) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def assert_nothing_dead(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Nodes of which nobody reads anything, and weights that nobody reads, were so before."""

    def unread(proto: onnx.ModelProto) -> set[str]:
        read = {value.name for value in proto.graph.output} | {name for node in proto.graph.node for name in node.input}
        made = [{*node.output} for node in proto.graph.node] + [{tensor.name} for tensor in proto.graph.initializer]
        return {name for names in made if not names & read for name in names}

    assert unread(after) <= unread(before)


@property_test
@given(graphs(), st.floats(0.2, 1), st.floats(0, 0.6), st.integers(0, 99))
def test_whole_branches_equal_masked(proto: onnx.ModelProto, share: float, rest: float, seed: int) -> None:
    a = analysed(proto)
    rng = np.random.default_rng(seed)
    removed = a.none_removed()
    for branch in branches(a):  # as many as go together
        more = removed.copy()
        more[a.groups[branch.group].units] = True
        if rng.random() < share and find_cut(a, more).problem is None:
            removed = more
    assume(removed.any())
    for group in a.groups:
        if not removed[group.units].all():
            removed[rng.choice(group.units, min(round(rest * len(group)), len(group) - 1), replace=False)] = True
    smaller = check_removal(a, find_cut(a, removed).removed, seed, batch=2)
    written = to_proto(smaller)
    assert_nothing_dead(proto, written)
    assert [value.name for value in written.graph.output] == [value.name for value in proto.graph.output]
    feed = random_feed(a, rng, batch=3)
    assert_close(run(smaller, feed, optimise=True), run(smaller, feed), run(a.model, feed))


@property_test
@given(graphs())
def test_what_a_branch_takes_along_feeds_nothing_else(proto: onnx.ModelProto) -> None:
    a = analysed(proto)
    for branch in branches(a):
        alone, together = a.none_removed(), a.none_removed()
        alone[a.groups[branch.group].units] = True
        for index in (branch.group, *branch.along):
            together[a.groups[index].units] = True
        assert to_proto(remove(a, alone)) == to_proto(remove(a, together))


def test_a_residual_branch_without_bias_leaves_nothing() -> None:
    smaller = without(example(NETWORK, WEIGHTS), "h")
    assert operators(smaller) == ["Conv", "Relu", "Flatten", "Gemm"]
    assert {*smaller.constants} == {"w0", "b0", "w3", "b3"}


def test_the_bias_of_a_branch_goes_into_the_other_one() -> None:
    proto = example(
        """g (float[N,3,8,8] x) => (float[N,5] y) {
        d = Conv (x, wd)
        h = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (h)
        k = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        n = BatchNormalization (k, scale, shift, mean, var)
        t = Add (n, d)
        f = Flatten (t)
        y = Gemm (f, w3, b3) }""",
        {"wd": (8, 3, 1, 1), "w1": (12, 3, 3, 3), "w2": (8, 12, 3, 3), "b2": (8,), "w3": (512, 5), "b3": (5,)}
        | dict.fromkeys(("scale", "shift", "mean", "var"), (8,)),
    )
    smaller = without(proto, "h")
    assert operators(smaller) == ["Conv", "Flatten", "Gemm"]
    assert len(smaller.proto.graph.node[0].input) == 3


def test_a_constant_behind_an_activation_stays_as_one_small_sum() -> None:
    text = NETWORK.replace("(r, w2)", "(r, w2, b2)")
    smaller = without(example(text, WEIGHTS | {"b2": (8,)}), "h")
    assert operators(smaller) == ["Conv", "Relu", "Add", "Flatten", "Gemm"]
    assert smaller.constants["k"].shape == (1, 8, 1, 1)


def test_sums_that_follow_each_other_take_the_constant_to_the_last_bias() -> None:
    proto = example(
        """g (float[N,5,6] x) => (float[N,5,6] y) {
        a = MatMul (x, w1)
        r = Relu (a)
        b = MatMul (r, w2)
        c = Add (b, b2)
        s = Add (x, c)
        d = MatMul (s, w3)
        e = Relu (d)
        f = MatMul (e, w4)
        g = Add (b4, f)
        y = Add (g, s) }""",
        {"w1": (6, 8), "w2": (8, 6), "b2": (6,), "w3": (6, 9), "w4": (9, 6), "b4": (6,)},
    )
    assert operators(without(proto, "d")) == ["MatMul", "Relu", "MatMul", "Add", "Add"]
    assert operators(without(proto, "a", "d")) == ["Add"]


def test_parts_of_a_concat_go_and_with_the_last_but_one_the_concat() -> None:
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        h = Conv (x, w1)
        i = Conv (x, w2)
        j = Relu (i)
        k = Conv (x, w3)
        c = Concat <axis = 1> (h, j, k)
        y = Conv (c, w4) }""",
        {"w1": (8, 3, 1, 1), "w2": (5, 3, 1, 1), "w3": (4, 3, 1, 1), "w4": (4, 17, 3, 3)},
    )
    assert operators(without(proto, "i")) == ["Conv", "Conv", "Concat", "Conv"]
    assert operators(without(proto, "h", "k")) == ["Conv", "Relu", "Conv"]
    with pytest.raises(ModelError, match="keep at least one"):
        without(proto, "h", "i", "k")


def test_a_gate_that_does_not_look_any_more_is_a_factor() -> None:
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        h = Conv (x, w1)
        p = GlobalAveragePool (h)
        d = Conv (p, w2, b2)
        r = Relu (d)
        e = Conv (r, w3, b3)
        g = Sigmoid (e)
        m = Mul (h, g)
        y = Conv (m, w4) }""",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1), "b2": (5,), "w3": (8, 5, 1, 1), "b3": (8,), "w4": (4, 8, 3, 3)},
    )
    assert operators(without(proto, "d")) == ["Conv", "Conv"]


ATTENTION = """g (float[N,5,6] x, float[N,1,1,5] bias) => (float[N,5,3] y) {
    q0 = MatMul (x, wq)
    q1 = Reshape (q0, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k0 = MatMul (x, wk)
    k1 = Reshape (k0, heads)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v0 = MatMul (x, wv)
    v1 = Reshape (v0, heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    s = MatMul (q, k)
    b = Add (s, bias)
    p = Softmax <axis = -1> (b)
    m = MatMul (p, v)
    m1 = Transpose <perm = [0, 2, 1, 3]> (m)
    j = Reshape (m1, rows)
    o = MatMul (j, wo)
    t = Add (o, bo)
    u = Add (x, t)
    l = LayerNormalization (u, scale)
    f = MatMul (l, w1)
    g = Relu (f)
    h = MatMul (g, w2)
    i = Add (h, b2)
    n = Add (i, l)
    y = MatMul (n, w3) }"""


def attention(text: str) -> onnx.ModelProto:
    return example(
        text,
        dict.fromkeys(("wq", "wk", "wv", "wo"), (6, 6))
        | {"bo": (6,), "scale": (6,), "w1": (6, 9), "w2": (9, 6), "b2": (6,), "w3": (6, 3)},
        {"heads": np.array([0, 0, 2, 3]), "rows": np.array([0, 0, 6])},
    )


def test_attention_and_feed_forward_blocks_of_a_transformer() -> None:
    proto = attention(ATTENTION)
    a = analysed(proto)
    names = [group.name for group in a.groups]
    assert names == ["q0", "f"]
    assert operators(without(proto, "f")) == [*(node.op_type for node in proto.graph.node[:19]), "Add", "MatMul"]
    with pytest.raises(ModelError, match="would not depend on the model's inputs as before"):
        without(proto, "q0")  # nothing else reads the bias of the scores
    alone = attention(ATTENTION.replace("Add (s, bias)", "Identity (s)").replace(", float[N,1,1,5] bias", ""))
    assert operators(without(alone, "q0", "f")) == ["Add", "LayerNormalization", "Add", "MatMul"]


def test_queries_and_keys_alone_stay() -> None:
    proto = example(
        """g (float[2,5,6] x) => (float[2,5,6] y) {
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        t = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, t)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, v)
        z = MatMul (o, wo)
        y = Add (z, x) }""",
        {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 6)},
    )
    a = analysed(proto)
    found = {a.groups[branch.group].name: [a.groups[i].name for i in branch.along] for branch in branches(a)}
    assert found == {"v": ["q"]}
    assert operators(without(proto, "v")) == ["Identity"]  # an input is not the output by itself


def test_an_output_that_is_the_sum_keeps_its_name() -> None:
    text = NETWORK.replace("(float[N,5] y)", "(float[N,5] y, float[N,8,8,8] t)")
    smaller = without(example(text, WEIGHTS), "h")
    assert operators(smaller) == ["Conv", "Relu", "Flatten", "Gemm"]
    text = NETWORK.replace("(float[N,5] y)", "(float[N,5] y, float[N,8,8,8] t, float[N,8,8,8] a)")
    smaller = without(example(text, WEIGHTS), "h")
    assert operators(smaller) == ["Conv", "Relu", "Identity", "Flatten", "Gemm"]
    shapes = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in smaller.proto.graph.output]
    assert shapes == [["N", 5], ["N", 8, 8, 8], ["N", 8, 8, 8]]


def test_a_class_head_and_a_chain_stay() -> None:
    a = analysed(example(NETWORK, WEIGHTS))
    assert [a.groups[branch.group].name for branch in branches(a)] == ["h"]
    proto = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = Gemm (x, w1)
        i = Gemm (h, w2)
        y = Gemm (i, w3) }""",
        {"w1": (6, 8), "w2": (8, 7), "w3": (7, 3)},
    )
    assert not branches(analysed(proto))


def test_a_branch_of_several_layers_goes_by_its_last_group() -> None:
    proto = example(
        """g (float[N,3,8,8] x) => (float[N,8,A,B] y) {
        s = Conv (x, w0)
        a = Conv (s, w1)
        r = Relu (a)
        b = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        q = Relu (b)
        c = Conv (q, w3)
        y = Add (s, c) }""",
        {"w0": (8, 3, 1, 1), "w1": (5, 8, 1, 1), "w2": (6, 5, 3, 3), "b2": (6,), "w3": (8, 6, 1, 1)},
    )
    a = analysed(proto)
    found = {a.groups[branch.group].name: [a.groups[i].name for i in branch.along] for branch in branches(a)}
    assert found == {"b": ["a"]}
    assert operators(without(proto, "b")) == ["Conv"]


def test_half_precision() -> None:
    proto = example(
        """g (float16[N,6] x) => (float16[N,6] y) {
        h = MatMul (x, w1)
        k = MatMul (h, w2)
        b = Add (k, c)
        y = Mul (b, x) }""",
        {},
        {name: np.full(shape, 0.25, np.float16) for name, shape in (("w1", (6, 4)), ("w2", (4, 6)), ("c", (6,)))},
    )
    smaller = without(proto, "h")
    assert operators(smaller) == ["Mul"]
    assert smaller.constants["b"].dtype == np.float16
