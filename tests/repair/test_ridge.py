"""Ridge regression of corrections, against the formula written out."""

import numpy as np
import pytest

from onnxprune.repair import ridge
from onnxprune.repair.layer_fit import _RIDGES
from onnxprune.repair.ridge import Fit, FitRows, Solver, fit_correction


def rows(count, width, groups=1, outputs=6, has_bias=True, bounds=(-np.inf, np.inf)):
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((groups, count, width)).astype(np.float32) + 1
    current, target = rng.standard_normal((2, count, outputs)).astype(np.float32)
    slope = np.linspace(0.5, 2, outputs)
    return Fit(columns, current, target + 0.3, slope, bounds, has_bias)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("count", "width"), [(90, 5), (300, 80), (20, 70)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("piece", [7, 2048])
def test_the_correction_solves_the_ridge_problem(monkeypatch, has_bias, count, width, groups, piece):
    monkeypatch.setattr(ridge, "_PIECE", piece)
    fit = rows(count, width, groups, has_bias=has_bias)
    solver = Solver(fit)
    assert solver.prepare(0.1)
    found = solver.solve(solver.project(lambda part: part.target - part.current))
    wanted = ((fit.target - fit.current) / fit.slope).astype(np.float64)
    for g, columns in enumerate(fit.columns.astype(np.float64)):
        own = slice(g * 6 // groups, (g + 1) * 6 // groups)
        x = columns - columns.mean(axis=0) if has_bias else columns
        y = wanted[:, own] - wanted[:, own].mean(axis=0) if has_bias else wanted[:, own]
        gram = x.T @ x
        weight = np.linalg.solve(gram + 0.1 * np.trace(gram) / width * np.eye(width), x.T @ y)
        np.testing.assert_allclose(found.weight[g], weight, atol=1e-4)
        bias = wanted[:, own].mean(axis=0) - columns.mean(axis=0) @ weight if has_bias else np.zeros(6 // groups)
        np.testing.assert_allclose(found.bias[own], bias, atol=1e-3)


def test_pieces_make_no_difference_where_an_activation_bounds_what_counts(monkeypatch):
    fit, held_out = rows(200, 5, bounds=(0.0, 6.0)), rows(60, 5, bounds=(0.0, 6.0))
    whole = fit_correction(fit, held_out, (1e-3, 1e-1), 5)
    monkeypatch.setattr(ridge, "_PIECE", 13)
    pieces = fit_correction(fit, held_out, (1e-3, 1e-1), 5)
    np.testing.assert_allclose(pieces.weight, whole.weight, atol=1e-4)
    assert whole.weight.any()


def test_gathered_rows_are_those_that_were_added():
    fit = rows(50, 4, groups=2)
    gathered = FitRows(64)
    assert gathered.fit() is None
    for part in (slice(0, 20), slice(20, 50)):
        gathered.add(fit.part(part))
    found = gathered.fit()
    for name in ("columns", "current", "target"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fit, name))


def noisy(count, width, signal, outputs=8):
    """Rows to fit and to choose by of one linear change, under noise."""
    rng = np.random.default_rng(1)
    wanted = signal * rng.standard_normal((width, outputs)) / np.sqrt(width)
    parts = []
    for rows_in in (count, 400):
        columns = rng.standard_normal((1, rows_in, width)).astype(np.float32)
        target = (columns[0] @ wanted + rng.standard_normal((rows_in, outputs))).astype(np.float32)
        parts.append(Fit(columns, np.zeros_like(target), target, np.ones(outputs), (-np.inf, np.inf), False))
    return parts


def test_weights_stay_near_those_they_start_from_where_rows_are_few():
    """Ridges ended at 0.03: a head of 1,404 outputs was fitted to 108 rows, and lost a third more on others."""
    fit, held_out = noisy(count=90, width=80, signal=1.5)
    losses = [ridge.loss(held_out, fit_correction(fit, held_out, ridges, 0)) for ridges in (_RIDGES[:3], _RIDGES)]
    assert losses[1] < 0.85 * losses[0]


@pytest.mark.parametrize(("count", "signal"), [(100, 0.0), (100, 0.5), (200, 3.0), (2000, 3.0)])
def test_the_ridge_is_the_one_that_held_out_rows_lose_least_with(count, signal):
    fit, held_out = noisy(count, 60, signal)
    every = [fit_correction(fit, held_out, (each,), 0) for each in _RIDGES]
    least = min(ridge.loss(held_out, each) for each in every)
    assert ridge.loss(held_out, fit_correction(fit, held_out, _RIDGES, 0)) == pytest.approx(least)


def test_a_ridge_that_cannot_be_solved_for_is_passed_over(monkeypatch):
    fit, held_out = noisy(200, 60, 3.0)
    able = Solver.prepare
    monkeypatch.setattr(Solver, "prepare", lambda solver, ridge: ridge > 1e-2 and able(solver, ridge))
    assert fit_correction(fit, held_out, _RIDGES, 0) is not None
    assert fit_correction(fit, held_out, _RIDGES[:2], 0) is None
