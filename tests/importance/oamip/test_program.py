"""The paper's program: reference, independent solver, brute force and metamorphic properties."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import EPS, VALID, by_highs, logits_at, mlp, program_of
from onnx import numpy_helper
from scipy.sparse import csr_array

from onnxprune.config import OamipConfig
from onnxprune.core.errors import SolverError
from onnxprune.graph.load import load
from onnxprune.importance.oamip.affine import Builder
from onnxprune.importance.oamip.compile import compile_network, logits_of, score_points
from onnxprune.importance.oamip.form import areas_of
from onnxprune.importance.oamip.interior_point import interior_point
from onnxprune.importance.oamip.program import OamipProgram, build, sparsity_term
from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.solve import solve
from onnxprune.ops.examples import example
from onnxprune.programs.scip import solve as scip
from onnxprune.structure.coupling import analyse

ROWS = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0])


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}


def changed(proto: onnx.ModelProto, new: dict[str, np.ndarray]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in new:
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name].astype(np.float32), tensor.name))
    return copy


def objective(proto: onnx.ModelProto, x: np.ndarray = ROWS, labels: np.ndarray = LABELS) -> float:
    found = solve(program_of(proto, x, labels).program, "program")
    assert found.status == "optimal"
    return found.objective


def test_reference_optimum(corpus_path: Callable[[str], Path]) -> None:
    reference = json.loads(corpus_path("oamip/ref_fc3.json").read_text())
    with np.load(corpus_path("oamip/ref_fc3.npz")) as held:
        x, y = held["x"], held["y"]
    built = program_of(onnx.load(corpus_path("oamip/fc3.onnx")), x, y)
    found = solve(built.program, "program")
    assert found.objective == pytest.approx(reference["objective"], rel=1e-4)
    assert found.bound <= found.objective
    assert found.gap < 1.1e-5
    assert built.program.linear.violation(found.x).max() < 1e-6


@pytest.mark.parametrize("how", [EPS, replace(VALID, gating=replace(VALID.gating, integer=False))])
def test_highs_finds_the_same_optimum(how: Propagation) -> None:
    program = program_of(mlp(), ROWS, LABELS, how).program
    assert solve(program, "program").objective == pytest.approx(by_highs(program), abs=2e-5)


def test_interior_bound_is_below_the_optimum() -> None:
    program = program_of(mlp(), ROWS, LABELS).program
    found = interior_point(program, 1e-6)
    exact = by_highs(program)
    assert found.bound <= exact + 1e-6
    assert found.objective >= exact - 1e-6
    assert program.linear.violation(found.x).max() <= 1e-6


def test_original_network_is_feasible_and_has_the_models_logits() -> None:
    for how in (EPS, VALID):
        built = program_of(mlp(), ROWS, LABELS, how)
        assert built.program.linear.violation(built.program.start).max() < 1e-6
        np.testing.assert_allclose(logits_at(built.program, built.program.start), built.logits, atol=1e-5)


def forward(w: dict[str, np.ndarray], x: np.ndarray, scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of `h = relu(a - (1 - s) U+)` in plain numpy, `U` by interval arithmetic over all scores in [0, 1]."""
    h = low = high = x.astype(np.float64)
    for layer, s in enumerate(scores, start=1):
        weight, bias = w[f"w{layer}"], w[f"b{layer}"]
        a = h @ weight + bias
        upper = high @ np.maximum(weight, 0) + low @ np.minimum(weight, 0) + bias
        positive = np.maximum(upper, 0)
        h = np.maximum(a - (1 - s) * positive, 0)
        low, high = np.zeros_like(h), positive
    last = len(scores) + 1
    return h @ w[f"w{last}"] + w[f"b{last}"], h


@pytest.mark.parametrize("seed", range(5))
def test_integer_gates_follow_the_network_at_any_scores(seed: int) -> None:
    proto, rng = mlp(), np.random.default_rng(seed)
    built = program_of(proto, ROWS, LABELS, VALID)
    scores = [rng.random(4), rng.random(3)]
    columns = np.concatenate(built.program.layers)
    linear = built.program.linear
    low, high = linear.column_lower.copy(), linear.column_upper.copy()
    low[columns] = high[columns] = np.concatenate(scores)
    costs = rng.standard_normal(len(linear.c)) * (np.arange(len(linear.c)) > built.program.loss_columns.max())
    found = scip(replace(linear, c=costs, column_lower=low, column_upper=high), "program")
    expected = np.array([forward(weights(proto), row, scores)[0] for row in ROWS])
    np.testing.assert_allclose(logits_at(built.program, found.x), expected, atol=1e-5)


def sparsity(scores: list[np.ndarray]) -> float:
    return sparsity_term(np.array([layer.mean() - 2.0 for layer in scores]))


def test_integer_program_is_no_worse_than_any_corner() -> None:
    proto = mlp()
    w = weights(proto)
    x, labels = ROWS[:2], LABELS[:2]
    found = solve(program_of(proto, x, labels, VALID).program, "program")
    assert found.status == "optimal"
    best = np.inf
    for corner in itertools.product([0.0, 0.5, 1.0], repeat=7):
        scores = [np.array(corner[:4]), np.array(corner[4:])]
        z = np.array([forward(w, row, scores)[0] for row in x])
        loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
        best = min(best, 5.0 * loss.mean() + sparsity(scores))
    assert found.objective <= best + 1e-4
    # And its own scores reach its objective in plain numpy.
    scores = np.clip(found.x[:7], 0, 1)
    z = np.array([forward(w, row, [scores[:4], scores[4:]])[0] for row in x])
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
    assert found.objective == pytest.approx(5.0 * loss.mean() + sparsity([scores[:4], scores[4:]]), abs=1e-4)


def test_kernels_places_count_in_the_sparsity_term_where_asked_for() -> None:
    """With every unit for `a` neurons the sparsity term is an `a`-th, as with `a` times the weight of the loss."""
    text = """g (float[N,2,5,5] x) => (float[N,3] y) {
        a = Conv (x, w1, b1)
        h = Relu (a)
        c = Conv (h, w2, b2)
        k = Relu (c)
        f = Flatten (k)
        y = Gemm (f, w3) }"""
    proto = example(text, {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (3, 4, 2, 2), "b2": (3,), "w3": (12, 3)})
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 5)).astype(np.float32)
    analysis = analyse(load(proto), {"x": (1, 2, 5, 5)})
    layers = tuple(group.units for group in analysis.groups)
    assert areas_of(analysis, layers, OamipConfig()) is None
    areas = areas_of(analysis, layers, OamipConfig(sparsity="kernels"))
    assert areas == (9.0, 4.0)
    network = compile_network(analysis, score_points(analysis), [logits_of(analysis)])

    def best(lambda_: float, areas: tuple[float, ...] | None) -> tuple[float, OamipProgram, np.ndarray]:
        images = [{"x": row[None]} for row in x]
        program, _ = build(network, images, np.arange(3), layers, np.ones(analysis.units), lambda_, EPS, areas)
        found = solve(program, "program")
        assert found.objective == pytest.approx(by_highs(program), rel=3e-5, abs=3e-5)
        return found.objective, program, found.x

    assert best(1.0, (4.0, 4.0))[0] == pytest.approx(best(4.0, None)[0] / 4, rel=1e-4)
    _, program, found = best(1.0, areas)
    terms = [
        (found[columns] - 2).sum() / (len(columns) * area) for columns, area in zip(program.layers, areas, strict=True)
    ]
    assert program.sparsity_term(found) == pytest.approx(max(terms))


def test_raw_bounds_take_a_layer_without_relu_away_whole() -> None:
    text = "g (float[N,5] x) => (float[N,3] y) { h = Gemm (x, w1, b1) y = Gemm (h, w2, b2) }"
    proto = example(text, {"w1": (5, 4), "b1": (4,), "w2": (4, 3), "b2": (3,)})
    for raw in (False, True):
        program = program_of(proto, ROWS, LABELS, replace(EPS, raw=raw)).program
        point = program.start.copy()
        point[np.concatenate(program.layers)] = 0.0
        left = logits_at(program, point) - weights(proto)["b2"]
        assert (np.abs(left).max() < 1e-3) == raw
        assert solve(program, "program").objective == pytest.approx(by_highs(program), rel=3e-5, abs=3e-5)


def test_images_twice_change_nothing() -> None:
    proto = mlp()
    twice = objective(proto, np.concatenate([ROWS, ROWS]), np.concatenate([LABELS, LABELS]))
    assert twice == pytest.approx(objective(proto), abs=3e-5)


def test_permuted_units_change_nothing() -> None:
    proto = mlp()
    w, order = weights(proto), [2, 0, 3, 1]
    moved = changed(proto, {"w1": w["w1"][:, order], "b1": w["b1"][order], "w2": w["w2"][order]})
    assert objective(moved) == pytest.approx(objective(proto), abs=3e-5)


def test_a_units_scale_changes_nothing() -> None:
    proto = mlp()
    w = weights(proto)
    factor = np.array([1.0, 4.0, 0.25, 1.0])
    scaled = changed(proto, {"w1": w["w1"] * factor, "b1": w["b1"] * factor, "w2": w["w2"] / factor[:, None]})
    assert objective(scaled) == pytest.approx(objective(proto), abs=5e-5)


def test_larger_lambda_trades_sparsity_for_loss() -> None:
    losses, sparsities = [], []
    for lambda_ in (0.5, 2.0, 8.0, 32.0):
        program = program_of(mlp(), ROWS, LABELS, lambda_=lambda_).program
        found = solve(program, "program")
        losses.append(program.loss_term(found.x) / lambda_)
        sparsities.append(program.sparsity_term(found.x))
    assert all(a >= b - 2e-4 for a, b in itertools.pairwise(losses))
    assert all(a <= b + 2e-4 for a, b in itertools.pairwise(sparsities))


def test_without_loss_everything_goes() -> None:
    program = program_of(mlp(), ROWS, LABELS, VALID, lambda_=0.0).program
    found = solve(program, "program")
    assert found.objective == pytest.approx(-2.0, abs=1e-4)


def test_time_limit_gives_a_feasible_point_and_a_bound() -> None:
    program = program_of(mlp(), ROWS, LABELS, VALID).program
    found = solve(program, "program", time_limit=0.0)
    assert found.status == "limit"
    assert found.bound <= found.objective
    assert program.linear.violation(found.x).max() < 1e-6


def test_tightened_bounds_keep_the_optimum() -> None:
    rows, labels = ROWS[:2], LABELS[:2]
    tight = program_of(mlp(), rows, labels, replace(VALID, tighten=True)).program
    assert tight.linear.violation(tight.start).max() < 1e-6
    assert solve(tight, "program").status == "optimal"


def test_contradiction_names_the_layer() -> None:
    builder = Builder()
    builder.add_columns(np.zeros(1), np.ones(1), np.ones(1))
    row = csr_array(np.ones((1, 1)))
    with pytest.raises(SolverError, match=r"'fc1'.*--oamip-epsilon"):
        builder.add_rows("fc1", np.zeros(1), row, np.array([2.0]), np.array([3.0]))


def test_infeasible_program_is_an_error_that_names_the_layer() -> None:
    """The interior point's bound passed the objective of an infeasible start, which was then given as optimal."""
    program = program_of(mlp(), ROWS, LABELS).program
    first = 0
    for layer, rows in program.blocks:
        lower, upper = program.linear.row_lower.copy(), program.linear.row_upper.copy()
        lower[first], upper[first] = -np.inf, -1e3
        broken = replace(program, linear=replace(program.linear, row_lower=lower, row_upper=upper))
        with pytest.raises(SolverError, match=rf"broken program has no solution: .*'{layer}'.*--oamip-epsilon"):
            solve(broken, "broken program")
        first += rows
    assert first == len(program.linear.row_lower)
    assert len(program.blocks) > 2
