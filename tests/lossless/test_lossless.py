"""Units that are constant or copies of others go, and outputs stay as they were."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from oracle import random_feed, run
from redundant import WEIGHTS, assert_same, build, constant, never_positive, silent, twins

from onnxprune.api.prune import prune
from onnxprune.core.errors import InputError
from onnxprune.graph.load import load
from onnxprune.lossless import lossless
from onnxprune.lossless.intervals import _product
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.removal import masked, remove


def apply(proto: onnx.ModelProto):
    model = load(proto)
    analysis = analyse(model)
    found = lossless(analysis)
    assert_same(model, found.model)
    assert_same(model, masked(found.analysis, found.removed))
    return model, analysis, found, remove(found.analysis, found.removed)


@pytest.mark.parametrize(
    ("change", "pads", "constants", "copies"),
    [
        (silent, 1, 2, 0),
        (constant, 0, 1, 0),
        # Padded zeros beside a constant other than zero: the border would change.
        (constant, 1, 0, 0),
        (never_positive, 1, 1, 0),
        (twins, 1, 0, 1),
        (lambda weights: None, 1, 0, 0),
    ],
)
def test_provable_units_go_and_outputs_stay(change, pads, constants, copies):
    model, _, found, smaller = apply(build(pads, change))
    assert (found.constant, found.copies) == (constants, copies)
    assert np.count_nonzero(found.removed) == constants + copies
    assert_same(model, smaller)


def test_a_group_that_is_all_constant_keeps_a_unit():
    def change(weights):
        weights["scale"][:] = 0.0
        weights["bias"][:] = -1.0

    model, analysis, found, smaller = apply(build(1, change))
    # 7 of the 8 channels; behind them the whole of the other group is constant too.
    assert found.constant == 7 + 5
    assert min(analysis.kept(found.removed)) == 1
    assert_same(model, smaller)


def test_gains_of_a_dense_layer_turn_signs() -> None:
    """Of `-s W - 2 b` with `s` between 0 and 1: never positive, positive, constant below 0, constant 2."""
    w1 = np.zeros((6, 4), np.float32)
    w1[:, 0], w1[:, 1] = 2, -2
    proto = example(
        """g (float[N,6] x) => (float[N,3] y) {
        z = Gemm (x, w0)
        s = Sigmoid (z)
        h = Gemm <alpha = -1.0, beta = -2.0> (s, w1, b1)
        r = Relu (h)
        y = Gemm (r, w2, b2) }""",
        {"w0": (6, 6), "w2": (4, 3), "b2": (3,)},
        {"w1": w1, "b1": np.float32([0, 0, 1, -1])},
    )
    analysis = analyse(load(proto))
    found = lossless(analysis)
    assert found.removed[analysis.groups[1].units].tolist() == [True, False, True, True]
    feed = random_feed(analysis, np.random.default_rng(0), 9)
    smaller = remove(found.analysis, found.removed)
    np.testing.assert_allclose(run(smaller, feed)[0], run(analysis.model, feed)[0], rtol=1e-5, atol=1e-6)


def test_twins_through_depthwise_and_a_shared_stream_are_merged():
    proto = example(
        """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
        s = Conv (x, w0, b0)
        a = Relu (s)
        d = Conv <group = 8, pads = [1, 1, 1, 1]> (a, wd, bd)
        t = Add (d, a)
        e = Clip (t, low, high)
        u = Conv (e, w1)
        v = Conv (e, w2)
        y = Add (u, v) }""",
        {"w0": (8, 3, 1, 1), "b0": (8,), "wd": (8, 1, 3, 3), "bd": (8,), "w1": (4, 8, 1, 1), "w2": (4, 8, 1, 1)},
        {"low": np.float32(0), "high": np.float32(6)},
    )
    weights = {t.name: np.array(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    for name in ("w0", "b0", "wd", "bd"):
        weights[name][5] = weights[name][0]
    weights["wd"][2], weights["w0"][2], weights["b0"][2] = weights["wd"][1], weights["w0"][1], weights["b0"][1]
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    model, _, found, smaller = apply(proto)
    # Units 1 and 2 differ in the bias of the depthwise convolution.
    assert (found.constant, found.copies) == (0, 1)
    assert_same(model, smaller)


def test_rows_that_differ_only_far_from_their_beginning_are_no_copies():
    def change(weights):
        twins(weights)
        weights["w1"][2], weights["b1"][2] = weights["w1"][4], weights["b1"][4]
        weights["w1"][2, -1, -1, -1] += 0.5

    _, _, found, _ = apply(build(1, change))
    assert (found.constant, found.copies) == (0, 1)


def test_only_units_that_may_go_go_and_copies_go_in_favour_of_those_that_stay():
    def change(weights):
        silent(weights)
        twins(weights)

    model = load(build(1, change))
    analysis = analyse(model)
    channels = analysis.labels["s"][1]
    among = analysis.none_removed()
    among[channels[[2, 3]]] = True  # one of the two silent ones, and the first of the twins
    found = lossless(analysis, among)
    assert np.array_equal(found.removed, among)
    assert_same(model, remove(found.analysis, among))


def test_where_nothing_is_found_the_model_is_the_given_one():
    model, _, found, smaller = apply(build(1, lambda weights: None))
    assert found.model is model
    assert smaller is model


def test_bounds_are_those_of_all_products_however_large_the_weight():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((2, 200, 30)) * (rng.random((2, 200, 30)) < 0.02)
    matrix[:, :, 7], matrix[:, :, 8], matrix[:, :, 9] = np.abs(matrix[:, :, 7]), -np.abs(matrix[:, :, 8]), 0.0
    low, high = rng.standard_normal((2, 2, 200))
    low, high = np.minimum(low, high), np.maximum(low, high)
    low[:, ::3], high[:, 1::2] = -np.inf, np.inf
    with np.errstate(invalid="ignore"):
        ends = np.stack([low[:, :, None] * matrix, high[:, :, None] * matrix])
    ends[:, matrix == 0] = 0.0
    least, most = _product(matrix, low, high)
    np.testing.assert_allclose(least, ends.min(axis=0).sum(axis=1).reshape(-1), rtol=1e-5)
    np.testing.assert_allclose(most, ends.max(axis=0).sum(axis=1).reshape(-1), rtol=1e-5)


@given(st.integers(0, 10_000), st.integers(0, 1))
@settings(max_examples=25, deadline=None)
def test_outputs_stay_whatever_is_zero_or_doubled(seed, pads):
    rng = np.random.default_rng(seed)

    def change(weights):
        for name in WEIGHTS:
            if rng.random() < 0.5 and name != "var":
                weights[name][rng.integers(len(weights[name]))] = 0.0
            if rng.random() < 0.3:
                i, j = rng.integers(len(weights[name]), size=2)
                weights[name][i] = weights[name][j]
        if rng.random() < 0.6:
            twins(weights)

    model, _, _, smaller = apply(build(pads, change))
    assert_same(model, smaller, seed)


def test_the_pipeline_removes_only_what_changes_nothing(tmp_path):
    def change(weights):
        silent(weights)
        twins(weights)

    proto = build(1, change)
    result = prune(proto, lossless=True)
    result.save(tmp_path / "out.onnx")
    assert result.notes == ("3 units went without loss: 2 constant for every input, 1 equal to another unit",)
    assert (result.after.params, result.after.macs) < (result.before.params, result.before.macs)
    assert sum(len(gone) for gone in result.plan.removed.values()) == 3
    assert_same(load(proto), result.model)


@pytest.mark.parametrize("more", [{"targets": "macs=0.5"}, {"threshold": "0.1"}, {"distill": 2}])
def test_lossless_refuses_what_it_would_ignore(more):
    """Also training, which it left out without a word."""
    with pytest.raises(InputError, match="leave out targets, threshold"):
        prune(build(1, silent), lossless=True, **more)
