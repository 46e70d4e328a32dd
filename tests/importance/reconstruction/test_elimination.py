"""Backward elimination against least squares done directly."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.importance.reconstruction import elimination
from onnxprune.importance.reconstruction.elimination import Consumer, EliminationTask, eliminate


def consumer(rows, weight, size):
    units = rows.shape[1] // size
    mean = rows.mean(axis=0)
    blocks = np.arange(units * size).reshape(units, size)
    gram = (rows - mean).T @ (rows - mean) / len(rows)
    return Consumer(gram, mean, weight, blocks, np.ones(weight.shape[1]))


def least_squares_loss(rows, weight, kept):
    """Relative loss of the best affine correction on the kept columns, and its prediction."""
    target = rows @ weight
    design = np.hstack([rows[:, kept], np.ones((len(rows), 1))])
    found = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return np.sum((target - found) ** 2) / np.sum((target - target.mean(axis=0)) ** 2), found


@given(st.integers(2, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_errors_are_those_of_least_squares_and_each_step_is_the_best(units, size, outputs, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((60, units * size)) @ rng.standard_normal((units * size, units * size)) + 1.0
    weight = rng.standard_normal((units * size, outputs))
    one = consumer(rows, weight, size)
    found = eliminate(EliminationTask("g", (one,), tuple(range(1, units)), 1e-12))
    alive = list(range(units))
    for step, unit in enumerate(found.order[:-1]):
        losses = {}
        for candidate in alive:
            kept = one.blocks[[u for u in alive if u != candidate]].reshape(-1)
            losses[candidate] = least_squares_loss(rows, weight, kept)[0]
        assert losses[unit] <= min(losses.values()) * (1 + 1e-4) + 1e-9
        alive.remove(unit)
        width = units - step - 1
        assert found.errors[width] == pytest.approx(losses[unit], rel=1e-3, abs=1e-8)
        corrected = found.corrected[width][0]
        prediction = rows @ corrected.weight + corrected.shift
        expected = least_squares_loss(rows, weight, one.blocks[alive].reshape(-1))[1]
        np.testing.assert_allclose(prediction, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1, 3])
def test_delayed_changes_are_those_made_at_once(size, monkeypatch):
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((500, 90)) @ rng.standard_normal((90, 90))
    weight = rng.standard_normal((90, 7))
    one = consumer(rows, weight, size)
    one = Consumer(one.gram, one.mean, weight, one.blocks[:-2], rng.uniform(0.5, 2.0, 7))
    task = EliminationTask("g", (one,), (len(one.blocks) // 2, 3), 1e-6)
    found = eliminate(task)
    monkeypatch.setattr(elimination, "_DELAYED", 1)
    expected = eliminate(task)
    np.testing.assert_array_equal(found.order, expected.order)
    np.testing.assert_allclose(found.errors, expected.errors, rtol=1e-6)
    for width in task.widths:
        weights = found.corrected[width][0].weight, expected.corrected[width][0].weight
        np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-5)
        assert (weights[0] == 0).all(axis=1).sum() == (len(one.blocks) - width) * size


def test_unit_that_is_a_combination_of_others_goes_first_and_costs_nothing():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((200, 5))
    rows[:, 2] = 0.5 * rows[:, 0] - rows[:, 4]
    found = eliminate(EliminationTask("g", (consumer(rows, rng.standard_normal((5, 3)), 1),), (), 1e-9))
    assert found.order[0] in (0, 2, 4)
    assert found.errors[4] < 1e-6
    assert found.errors[3] > 1e-3


def test_several_consumers_are_summed_relative_to_their_energy():
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((400, 3))
    # The first consumer cannot do without unit 0, the second without unit 2; 1 matters to neither.
    first = consumer(rows, np.array([[1.0], [0.01], [0.1]]), 1)
    second = consumer(rows, 1e4 * np.array([[0.1], [0.01], [1.0]]), 1)
    found = eliminate(EliminationTask("g", (first, second), (), 1e-6))
    assert found.order[0] == 1
    assert found.errors[2] < 1e-3
    assert found.errors[1] > 0.5


def test_columns_of_other_groups_are_never_removed_but_correct():
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((300, 4))
    rows[:, 0] = rows[:, 3]
    weight = np.ones((4, 1))
    one = consumer(rows, weight, 1)
    partial = Consumer(one.gram, one.mean, one.weight, one.blocks[:2], one.metric)
    found = eliminate(EliminationTask("g", (partial,), (1,), 1e-9))
    assert list(found.order) == [0, 1]
    np.testing.assert_allclose(found.corrected[1][0].weight[:, 0], [0, 1, 1, 2], atol=1e-3)


def test_tasks_and_results_pickle():
    rng = np.random.default_rng(0)
    task = EliminationTask("g", (consumer(rng.standard_normal((50, 4)), rng.standard_normal((4, 2)), 2),), (1,), 1e-6)
    again = pickle.loads(pickle.dumps(eliminate(pickle.loads(pickle.dumps(task)))))
    np.testing.assert_array_equal(again.order, eliminate(task).order)


@pytest.mark.parametrize(("size", "ridge"), [(1, 1e-9), (3, 0.03), (3, 0.0)])
def test_moments_whose_rounding_errors_exceed_the_ridge_are_inverted_all_the_same(size, ridge):
    """Single-precision moments of columns that hardly vary beside their mean are not positive definite."""
    rng = np.random.default_rng(13)
    rows = (1.0 + 1e-5 * rng.standard_normal((200, 1)) + 1e-7 * rng.standard_normal((200, 24))).astype(np.float32)
    mean = rows.mean(axis=0, dtype=np.float64)
    gram = (rows.T @ rows).astype(np.float64) / len(rows) - np.outer(mean, mean)
    assert np.linalg.eigvalsh(gram)[0] < -ridge * np.trace(gram) / len(gram)
    blocks = np.arange(24).reshape(-1, size)
    one = Consumer(gram, mean, rng.standard_normal((24, 5)), blocks, np.ones(5))
    found = eliminate(EliminationTask("g", (one,), (4,), ridge))
    assert sorted(found.order) == list(range(len(blocks)))
    assert np.isfinite(found.errors).all()
    assert np.isfinite(found.corrected[4][0].weight).all()
    assert np.abs(found.corrected[4][0].weight).max() < 1e3
