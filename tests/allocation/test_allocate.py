"""The allocation program against brute force, and its promises."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.costs import budgets
from onnxprune.allocation.problem import AllocationProblem, Budget, CostPolynomial
from onnxprune.core.errors import BudgetError
from onnxprune.core.scores import monotone
from onnxprune.core.targets import Target
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse
from onnxprune.structure.removal import remove


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    groups = draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 6)) for _ in range(groups)]
    damage = []
    for size in sizes:
        curve = rng.random(size + 1)
        if draw(st.booleans()):
            curve = np.sort(curve)[::-1].copy()
        curve[-1] = 0.0
        damage.append(curve)
    found = []
    for index in range(draw(st.integers(1, 2))):
        pairs = [(g, h) for g in range(groups) for h in range(g, groups) if rng.random() < 0.6]
        cost = CostPolynomial(
            float(rng.integers(0, 5)),
            {g: float(rng.integers(0, 6)) for g in range(groups)},
            {pair: float(rng.integers(0, 9)) for pair in pairs},
        )
        found.append(Budget(f"budget {index}", cost, cost(sizes) * draw(st.floats(0.2, 1.1))))
    fixed = frozenset(g for g in range(groups) if rng.random() < 0.15)
    minimum = tuple(int(rng.integers(1, size + 1)) if rng.random() < 0.2 else 1 for size in sizes)
    whole = frozenset(g for g in range(groups) if rng.random() < 0.4) - fixed
    return AllocationProblem(tuple(damage), tuple(found), draw(st.integers(1, 3)), minimum, fixed, whole)


def brute_force(problem):
    """The least objective over all allowed widths that meet the budgets, None where none does."""
    curves = [monotone(curve) for curve in problem.damage]
    best = None
    for kept in product(*(problem.widths(g) for g in range(len(curves)))):
        if all(budget.cost(kept) <= budget.limit for budget in problem.budgets):
            value = sum(curve[k] for curve, k in zip(curves, kept, strict=True))
            best = value if best is None else min(best, value)
    return best


@given(problems())
@settings(max_examples=60, deadline=None)
def test_optimum_is_that_of_brute_force(problem):
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(BudgetError):
            allocate(problem)
        return
    found = allocate(problem, gap=0.0)
    assert found.objective == pytest.approx(expected, abs=1e-6)
    assert found.bound <= expected + 1e-6
    for g, kept in enumerate(found.kept):
        assert kept in problem.widths(g)
    assert found.predicted == tuple(budget.cost(found.kept) for budget in problem.budgets)
    assert all(p <= budget.limit for p, budget in zip(found.predicted, problem.budgets, strict=True))


@given(problems())
@settings(max_examples=25, deadline=None)
def test_bound_holds_and_results_repeat(problem):
    expected = brute_force(problem)
    assume(expected is not None)
    first, second = allocate(problem, gap=0.3, node_limit=1), allocate(problem, gap=0.3, node_limit=1)
    assert first.bound <= expected + 1e-6
    assert first.objective >= expected - 1e-9
    assert (first.kept, first.bound) == (second.kept, second.bound)


def test_infeasible_budget_names_the_least_value():
    curve = np.array([9.0, 2.0, 1.0, 0.0])
    cost = CostPolynomial(100.0, {0: 10.0}, {(0, 1): 5.0})
    problem = AllocationProblem((curve, curve), (Budget("macs", cost, 114.0),))
    with pytest.raises(BudgetError, match=r"macs cannot go below 115 \(asked for at most 114\)"):
        allocate(problem)
    found = allocate(AllocationProblem((curve, curve), (Budget("macs", cost, 115.0),)))
    assert found.kept == (1, 1)


def test_budget_that_does_not_bind_removes_nothing():
    curve = np.array([9.0, 2.0, 1.0, 0.0])
    problem = AllocationProblem((curve,), (Budget("params", CostPolynomial(linear={0: 1.0}), 3.0),))
    found = allocate(problem)
    assert (found.kept, found.objective, found.status) == ((3,), 0.0, "optimal")


@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
@pytest.mark.parametrize("seed", range(3))
def test_predicted_costs_are_those_of_the_written_model(kind, seed):
    model = load(
        example(
            """g (float[N,3,8,8] x) => (float[N,5] y) {
            s = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            a = Relu (s)
            h = Conv <pads = [1, 1, 1, 1]> (a, w1)
            d = Conv <group = 12, pads = [1, 1, 1, 1]> (h, wd)
            r = Relu (d)
            k = Conv (r, w2)
            t = Add (k, a)
            f = Flatten (t)
            y = Gemm (f, w3, b3) }""",
            {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (12, 8, 3, 3), "wd": (12, 1, 3, 3), "w2": (8, 12, 1, 1)}
            | {"w3": (512, 5), "b3": (5,)},
        )
    )
    analysis = analyse(model)
    (budget,) = budgets(analysis, [Target(kind, 0.6)], analysis.costs())
    rng = np.random.default_rng(seed)
    curves = tuple(np.append(np.sort(rng.random(len(group)))[::-1], 0.0) for group in analysis.groups)
    found = allocate(AllocationProblem(curves, (budget,)))
    removed = analysis.none_removed()
    for group, kept in zip(analysis.groups, found.kept, strict=True):
        removed[rng.permutation(group.units)[: len(group) - kept]] = True
    written = analyse(remove(analysis, removed)).costs()
    assert getattr(written, kind) == found.predicted[0]
    assert removed.any()


@given(problems(), st.integers(0, 100_000))
@settings(max_examples=25, deadline=None)
def test_hopeless_widths_beside_harmless_ones_fail_no_solver(problem, seed):
    """HiGHS gave up on damages of 1e-12 beside those of 1e3."""
    rng = np.random.default_rng(seed)
    steep = tuple(
        curve * 10.0 ** np.linspace(rng.uniform(0, 9), rng.uniform(-16, 0), len(curve)) for curve in problem.damage
    )
    problem = replace(problem, damage=steep)
    best = brute_force(problem)
    assume(best is not None)
    found = allocate(problem, gap=0.0)
    assert found.objective == pytest.approx(best, rel=1e-3)
    assert found.bound <= best * (1 + 1e-6)


@pytest.mark.parametrize("least", [1e-8, 1e-12, 1e-20])
def test_damages_of_very_different_size_fail_no_solver(least):
    """HiGHS gave up on costs of 1e9 times the objective, and SCIP takes 1e20 for infinite."""
    first, second, third = np.geomspace(1e-7, least, 17), np.geomspace(1e-11, 1e-21, 25), np.full(33, 0.05)
    first[13], first[14:], second[4:24], second[24] = 1e-12, 0.0, 1e-21, 0.0
    third[:2], third[30:] = (2600.0, 1.5), 0.0
    cost = CostPolynomial(0.0, {0: 1728.0, 2: 10.0}, {(0, 1): 576.0, (1, 2): 1.0})
    found = allocate(AllocationProblem((first, second, third), (Budget("macs", cost, 124960.0),)))
    assert found.kept[2] == 30
    assert found.status == "optimal"
    assert found.objective <= first[14] + second[4] * 1.001
