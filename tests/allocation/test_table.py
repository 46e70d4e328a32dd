"""Costs that are tabulated: the allocation program against enumeration, and against the polynomial it tabulates."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import AllocationProblem, Budget, CostPolynomial
from onnxprune.allocation.table import CostTable
from onnxprune.core.errors import BudgetError


def random_problem(seed: int, groups: int) -> tuple[AllocationProblem, CostTable]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 12, groups)
    widths = {g: np.unique(np.append(rng.integers(1, n, 4), n)) for g, n in enumerate(sizes)}
    grown = lambda shape, axis: np.cumsum(rng.random(shape), axis=axis)  # noqa: E731
    alone = {g: grown(len(k), 0) for g, k in widths.items() if g != 1}
    pairs = {
        (g, h): np.cumsum(grown((len(widths[g]), len(widths[h])), 0), axis=1)
        for g, h in [(0, 1), (1, 2), (0, 2)]
        if h < groups
    }
    table = CostTable(widths, 0.5, alone, pairs)
    damage = tuple(np.concatenate([np.cumsum(rng.random(n))[::-1], [0.0]]) for n in sizes)
    limit = table.constant + 0.5 * (table(sizes.tolist()) - table.constant)
    return AllocationProblem(damage, (Budget("latency", table, limit),), allowed=widths), table


@given(seed=st.integers(0, 10**6), groups=st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_no_choice_on_the_table_is_better(seed: int, groups: int) -> None:
    problem, table = random_problem(seed, groups)
    every = [k for k in product(*table.widths.values()) if table(k) <= problem.budgets[0].limit]
    if not every:
        with pytest.raises(BudgetError):
            allocate(problem)
        return
    best = min(sum(d[k_g] for d, k_g in zip(problem.damage, k, strict=True)) for k in every)
    found = allocate(problem, gap=1e-6)
    assert table(found.kept) <= problem.budgets[0].limit
    assert found.objective == pytest.approx(best, rel=1e-5)
    assert found.bound <= best * (1 + 1e-6)


def test_a_tabulated_polynomial_gives_what_the_polynomial_gives() -> None:
    rng = np.random.default_rng(3)
    sizes = [12, 9, 16]
    polynomial = CostPolynomial(2.0, {0: 3.0, 2: 1.0}, {(0, 1): 2.0, (1, 2): 1.5, (1, 1): 0.5})
    widths = {g: np.arange(1, n + 1) for g, n in enumerate(sizes)}
    squares = 0.5 * widths[1].astype(float) ** 2
    table = CostTable(
        widths,
        2.0,
        {0: 3.0 * widths[0], 1: squares, 2: 1.0 * widths[2]},
        {(0, 1): 2.0 * np.outer(widths[0], widths[1]), (1, 2): 1.5 * np.outer(widths[1], widths[2])},
    )
    damage = tuple(np.concatenate([np.sort(rng.random(n))[::-1], [0.0]]) for n in sizes)
    limit = 0.4 * polynomial(sizes)
    by_polynomial = allocate(AllocationProblem(damage, (Budget("cost", polynomial, limit),)), gap=1e-7)
    by_table = allocate(AllocationProblem(damage, (Budget("cost", table, limit),)), gap=1e-7)
    assert table(sizes) == polynomial(sizes)
    assert by_table.objective == pytest.approx(by_polynomial.objective, rel=1e-6)


def test_a_table_and_a_polynomial_bind_together() -> None:
    problem, table = random_problem(7, 3)
    sizes = [len(curve) - 1 for curve in problem.damage]
    macs = CostPolynomial(0.0, {}, {(0, 1): 1.0, (1, 2): 1.0})
    budgets = (problem.budgets[0], Budget("macs", macs, 0.3 * macs(sizes)))
    found = allocate(AllocationProblem(problem.damage, budgets, allowed=table.widths), gap=1e-6)
    every = [k for k in product(*table.widths.values()) if all(b.cost(k) <= b.limit for b in budgets)]
    best = min(sum(d[k_g] for d, k_g in zip(problem.damage, k, strict=True)) for k in every)
    assert found.objective == pytest.approx(best, rel=1e-5)


def test_widths_outside_of_the_table_are_refused() -> None:
    table = CostTable({0: np.array([2, 4])}, alone={0: np.array([1.0, 2.0])})
    assert table([4]) == 2.0
    with pytest.raises(ValueError, match="not all of"):
        table([3])
    with pytest.raises(ValueError, match="one finite number for each width"):
        CostTable({0: np.array([2, 4])}, alone={0: np.array([1.0])})
    with pytest.raises(ValueError, match="smaller group"):
        CostTable({0: np.array([1]), 1: np.array([1])}, pairs={(1, 0): np.zeros((1, 1))})


def test_allowed_widths_are_kept_to() -> None:
    problem = AllocationProblem(
        (np.arange(17)[::-1].astype(float),),
        (Budget("macs", CostPolynomial(0.0, {0: 1.0}), 11.0),),
        allowed={0: np.array([4, 8, 16])},
    )
    assert problem.widths(0).tolist() == [4, 8, 16]
    assert allocate(problem).kept == (8,)


def test_measured_costs_that_shrink_with_the_width_are_reachable() -> None:
    table = CostTable({0: np.array([1, 4, 8])}, alone={0: np.array([0.9, 0.5, 1.0])})
    damage = np.array([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    problem = AllocationProblem((damage,), (Budget("latency", table, 0.6),), allowed=table.widths)
    assert allocate(problem).kept == (4,)
    flat = AllocationProblem((np.zeros(9),), (Budget("latency", table, 0.6),), allowed=table.widths)
    assert allocate(flat).kept == (4,)
    with pytest.raises(BudgetError, match=r"latency cannot go below 0\.5"):
        allocate(AllocationProblem((damage,), (Budget("latency", table, 0.4),), allowed=table.widths))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_choice_is_better_where_measured_costs_rise_and_fall(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 9, 3)
    widths = {g: np.arange(1, n + 1) for g, n in enumerate(sizes)}
    table = CostTable(widths, 0.1, {g: rng.random(n) for g, n in enumerate(sizes)})
    damage = tuple(np.concatenate([np.cumsum(rng.integers(0, 2, n))[::-1], [0.0]]) for n in sizes)
    problem = AllocationProblem(damage, (Budget("latency", table, 0.1 + rng.random()),), allowed=widths)
    every = [k for k in product(*widths.values()) if table(k) <= problem.budgets[0].limit]
    if not every:
        with pytest.raises(BudgetError):
            allocate(problem)
        return
    best = min(sum(d[k_g] for d, k_g in zip(damage, k, strict=True)) for k in every)
    found = allocate(problem, gap=1e-6)
    assert table(found.kept) <= problem.budgets[0].limit
    assert found.objective == pytest.approx(best, rel=1e-5)
