"""Fitting a producer together with its consumer."""

import numpy as np
import pytest

from onnxprune.calibration.columns import Positions
from onnxprune.calibration.runner import Runner
from onnxprune.graph.analysis import analyse
from onnxprune.graph.fitpoint import schedule
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.view import view
from onnxprune.ops.examples import example
from onnxprune.repair.pairs import Pair, _Objective, find_pairs, fit_pair, joined, pair_rows, tile_positions
from onnxprune.repair.sequential import corrected

CONV = """g (float[N,3,9,9] x) => (float[N,5,A,B] y) {
    h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    n = BatchNormalization (h, scale, shift, mean, var)
    r = Relu (n)
    c = Conv <strides = [2, 2], dilations = [1, 2], pads = [1, 2, 1, 2]> (r, w2, b2)
    y = Relu (c) }"""
DENSE = """g (float[N,6] x) => (float[N,3] y) {
    h = Gemm <alpha = 0.5, transB = 1> (x, w1, b1)
    r = Clip (h, low, high)
    y = Gemm <alpha = 2.0> (r, w2, b2) }"""


def conv() -> Model:
    norm = dict.fromkeys(("scale", "shift", "mean", "var"), (4,))
    return load(example(CONV, {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (5, 4, 3, 3), "b2": (5,)} | norm))


def dense() -> Model:
    bounds = {"low": np.float32(-0.2), "high": np.float32(0.6)}
    return load(example(DENSE, {"w1": (8, 6), "b1": (8,), "w2": (8, 3), "b2": (3,)}, bounds))


def only_pair(model: Model) -> Pair:
    graph = view(model)
    space = analyse(model, graph)
    (pair,) = find_pairs(schedule(graph, space, model.constants).points, graph).values()
    return pair


def values(model: Model, pair: Pair, x: np.ndarray) -> dict[str, np.ndarray]:
    names = [pair.producer.tensor, pair.consumer.tensor]
    return Runner(model, names, threads=1, optimise=False).run_feed({"x": x}) | {"x": x}


def rows_of(model: Model, pair: Pair, x: np.ndarray, target: np.ndarray, count: int = 10**6):
    found = values(model, pair, x)
    shape = tuple(n for a, n in enumerate(target.shape) if a != pair.consumer.layer.output_axis)
    at = tile_positions(pair.consumer.layer, shape, count, np.random.default_rng(0))
    return pair_rows(pair, found, target, at), at


def images(model: Model, seed: int, rows: int = 6) -> np.ndarray:
    shape = (rows, 3, 9, 9) if "scale" in model.constants else (40 * rows, 6)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("model", [conv(), dense()], ids=["conv", "dense"])
def test_prediction_is_what_the_corrected_model_computes(model: Model) -> None:
    pair, x = only_pair(model), images(model, 1)
    goal = values(model, pair, x)[pair.consumer.tensor] + 0.3
    rows, at = rows_of(model, pair, x, goal, count=40)
    held, _ = rows_of(model, pair, images(model, 2), values(model, pair, images(model, 2))[pair.consumer.tensor] + 0.3)
    weights = (model.constants[pair.producer.layer.weight], model.constants[pair.consumer.layer.weight])
    found = fit_pair(pair, rows, held, weights)
    assert found is not None
    changed = corrected(pair.producer, model, found[0]) | corrected(pair.consumer, model, found[1])
    after = values(model.with_constants(changed), pair, x)[pair.consumer.tensor]
    before, _ = rows_of(model, pair, x, goal, count=40)
    now = pair_rows(pair, values(model.with_constants(changed), pair, x), goal, at)
    assert (
        np.square(now.fit.residual(now.fit.current)).mean()
        < 0.5 * np.square(before.fit.residual(before.fit.current)).mean()
    )
    objective = _Objective(pair, rows, weights)
    kernel = found[1].weight[0].reshape(rows.made.shape[1], -1, after.shape[1]).transpose(1, 0, 2)
    corrections = [c.astype(np.float32) for c in (found[0].weight, found[0].bias, kernel, found[1].bias)]
    direct = np.square(now.fit.residual(now.fit.current)).mean() / np.square(rows.fit.residual(rows.fit.current)).mean()
    assert objective.loss(corrections) == pytest.approx(direct, rel=1e-3)


@pytest.mark.parametrize("model", [conv(), dense()], ids=["conv", "dense"])
def test_gradient_agrees_with_differences(model: Model) -> None:
    pair, x = only_pair(model), images(model, 3).astype(np.float64)
    found = {name: value.astype(np.float64) for name, value in values(model, pair, x.astype(np.float32)).items()}
    found["x"] = x
    target = found[pair.consumer.tensor] + np.random.default_rng(4).standard_normal(found[pair.consumer.tensor].shape)
    shape = tuple(n for a, n in enumerate(target.shape) if a != pair.consumer.layer.output_axis)
    at = Positions(shape, np.arange(int(np.prod(shape))))
    rows = pair_rows(pair, found, target, at)
    weights = (model.constants[pair.producer.layer.weight], model.constants[pair.consumer.layer.weight])
    objective = _Objective(pair, rows, weights)
    rng = np.random.default_rng(5)
    point, direction = rng.standard_normal(objective.size) * 0.05, rng.standard_normal(objective.size)
    step = 1e-6
    slope = (objective(point + step * direction)[0] - objective(point - step * direction)[0]) / (2 * step)
    assert objective(point)[1] @ direction == pytest.approx(slope, rel=1e-3)


def test_a_pair_that_held_out_rows_disagree_with_is_left_alone() -> None:
    model = dense()
    pair, x = only_pair(model), images(model, 6)
    now = values(model, pair, x)[pair.consumer.tensor]
    rows, _ = rows_of(model, pair, x, now + 0.5)
    held, _ = rows_of(model, pair, x, now - 0.5)
    weights = (model.constants[pair.producer.layer.weight], model.constants[pair.consumer.layer.weight])
    assert fit_pair(pair, rows, held, weights) is None


def test_rows_of_batches_join() -> None:
    model = conv()
    pair = only_pair(model)
    x = images(model, 7)
    goal = values(model, pair, x)[pair.consumer.tensor] + 0.1
    whole, _ = rows_of(model, pair, x, goal)
    parts = [rows_of(model, pair, x[i : i + 3], goal[i : i + 3])[0] for i in (0, 3)]
    weights = (model.constants[pair.producer.layer.weight], model.constants[pair.consumer.layer.weight])
    point = np.random.default_rng(8).standard_normal(_Objective(pair, whole, weights).size) * 0.1
    assert _Objective(pair, joined(parts), weights)(point)[0] == pytest.approx(
        _Objective(pair, whole, weights)(point)[0], rel=1e-4
    )


def test_producers_that_others_read_are_no_pairs() -> None:
    model = load(
        example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm (x, w1)
            r = Relu (h)
            a = Gemm (r, w2)
            b = Gemm (r, w3)
            y = Add (a, b) }""",
            {"w1": (6, 8), "w2": (8, 3), "w3": (8, 3)},
        )
    )
    graph = view(model)
    assert find_pairs(schedule(graph, analyse(model, graph), model.constants).points, graph) == {}
