"""Fit points: how far a layer's effect is followed, and how much of it is seen there."""

import numpy as np

import onnxprune
from onnxprune.calibration.runner import Runner
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.fit_targets import fit_schedule

BLOCK = """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
    s = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (s)
    h = Conv <pads = [1, 1, 1, 1]> (r, w2)
    n = BatchNormalization (h, scale, bias, mean, var)
    m = Mul (n, factor)
    a = Add (m, r)
    c = Clip (a, low, high)
    y = Conv (c, w3) }"""


def block():
    names = ("scale", "bias", "mean", "var")
    return example(
        BLOCK,
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (4, 8, 1, 1)} | dict.fromkeys(names, (8,)),
        {"factor": np.full((8, 1, 1), -0.5, np.float32), "low": np.float32(-1), "high": np.float32(2)},
    )


def points_of(proto):
    model = load(proto)
    return model, {p.layer.output: p for p in fit_schedule(analyse(model)).points}


def test_walk_passes_normalisation_scaling_and_known_branches():
    _, points = points_of(block())
    assert points["h"].tensor == "a"
    assert points["h"].bounds == (-1.0, 2.0)
    assert points["s"].tensor == "s"
    assert points["y"].tensor == "y"
    assert points["y"].bounds == (-np.inf, np.inf)


def test_slopes_say_what_changes_of_weight_and_bias_do():
    model, points = points_of(block())
    point = points["h"]
    assert point.bias == "bias"
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    tap = ["h", "a"]
    before = Runner(model, tap).run_feed(feed)
    weight = Runner(model.with_constants({"w2": model.constants["w2"] * np.float32(1.5)}), tap).run_feed(feed)
    change = (weight["h"] - before["h"]) * point.slope.reshape(-1, 1, 1)
    np.testing.assert_allclose(weight["a"] - before["a"], change, atol=1e-4)
    bias = Runner(model.with_constants({"bias": model.constants["bias"] + np.float32(1)}), tap).run_feed(feed)
    shift = np.broadcast_to(point.bias_slope.reshape(-1, 1, 1), before["a"].shape)
    np.testing.assert_allclose(bias["a"] - before["a"], shift, atol=1e-4)


def test_branch_that_is_not_known_yet_ends_the_walk_and_the_last_branch_passes():
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        p = Conv (x, w1)
        q = Conv (x, w2)
        a = Add (p, q)
        r = Relu (a)
        y = Conv (r, w3) }""",
        {"w1": (8, 3, 1, 1), "w2": (8, 3, 1, 1), "w3": (4, 8, 1, 1)},
    )
    _, points = points_of(proto)
    assert {points["p"].tensor, points["q"].tensor} == {"p", "a"}


def test_addition_that_broadcasts_ends_the_walk():
    proto = example(
        """g (float[N,3] x) => (float[N,4,5] y) {
        p = MatMul (x, w1)
        u = Unsqueeze (p, axes)
        y = Add (u, offset) }""",
        {"w1": (3, 5), "offset": (4, 1)},
        {"axes": np.array([1])},
    )
    _, points = points_of(proto)
    assert points["p"].tensor == "p"


def test_added_constant_serves_as_bias():
    proto = example(
        """g (float[N,3] x) => (float[N,5] y) {
        p = MatMul (x, w1)
        a = Sub (offset, p)
        y = Relu (a) }""",
        {"w1": (3, 5), "offset": (5,)},
    )
    _, points = points_of(proto)
    point = points["p"]
    assert (point.tensor, point.bias, point.bounds) == ("a", "offset", (0.0, np.inf))
    np.testing.assert_array_equal(point.slope, -np.ones(5))
    np.testing.assert_array_equal(point.bias_slope, np.ones(5))


def test_layers_that_share_a_bias_have_one_each():
    """A refit of one layer may not change what the other adds: equal vectors stored once are no tie."""
    proto = example(
        """g (float[N,3] x) => (float[N,5] y) {
        p = Gemm (x, w1, b)
        r = Relu (p)
        y = Gemm (r, w2, b) }""",
        {"w1": (3, 5), "w2": (5, 5), "b": (5,)},
    )
    _, points = points_of(proto)
    assert points["p"].bias == "b"
    assert points["y"].bias not in (None, "b")


def test_a_bias_that_is_reshaped_behind_its_layer_is_made_before_it():
    """As Paddle's exporter writes biases: the addition ran before the reshape, and every run with data failed."""
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        h = Conv (x, w1)
        c = Reshape (b, shape)
        a = Add (h, c)
        r = Relu (a)
        y = Conv (r, w2) }""",
        {"w1": (12, 3, 1, 1), "b": (12,), "w2": (4, 12, 1, 1)},
        {"shape": np.array([1, 12, 1, 1])},
    )
    analysis = analyse(load(proto))
    schedule = fit_schedule(analysis)
    known = {*analysis.model.constants, "x"}
    for node in schedule.nodes:
        assert known.issuperset(node.inputs)
        known.update(node.outputs)
    assert {point.layer.output: point.tensor for point in schedule.points}["h"] == "a"
    rows = np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)
    small = onnxprune.prune(proto, rows, targets="macs=0.6", time=False)
    assert small.after["macs"] <= 0.6 * small.before["macs"]
