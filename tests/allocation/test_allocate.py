"""The allocation program against enumeration, and from a model's analysis to exact budgets."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation import AllocationProblem, Budget, CostPolynomial, allocate, removal_to_damage
from onnxprune.allocation.bound import lowest_line
from onnxprune.allocation.costs import CostModel
from onnxprune.allocation.problem import monotone
from onnxprune.errors import BudgetError
from onnxprune.graph.analysis import analyse
from onnxprune.graph.load import load
from onnxprune.ops.examples import example


@st.composite
def problems(draw: st.DrawFn) -> AllocationProblem:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    groups = draw(st.integers(1, 4))
    sizes = rng.integers(1, 6, groups)
    damage = tuple(np.append(rng.random(n).cumsum()[::-1] * rng.random(), 0.0) for n in sizes)
    budgets = []
    for name in ("macs", "params")[: draw(st.integers(1, 2))]:
        pairs = {(g, h): float(rng.integers(0, 4)) for g in range(groups) for h in range(g, groups)}
        cost = CostPolynomial(float(rng.integers(0, 5)), {g: float(rng.integers(0, 5)) for g in range(groups)}, pairs)
        least, full = cost([1] * groups), cost(sizes.tolist())
        budgets.append(Budget(name, cost, least + draw(st.floats(0, 1)) * (full - least)))
    return AllocationProblem(damage, tuple(budgets), round_to=draw(st.sampled_from([1, 2])))


def enumerate_choices(problem: AllocationProblem) -> list[tuple[float, tuple[int, ...]]]:
    curves = [monotone(curve) for curve in problem.damage]
    return [
        (sum(curve[k] for curve, k in zip(curves, kept, strict=True)), kept)
        for kept in product(*(problem.widths(g).tolist() for g in range(len(curves))))
        if all(budget.cost(kept) <= budget.limit for budget in problem.budgets)
    ]


@given(problem=problems())
@settings(max_examples=60)
def test_optimum_equals_enumeration(problem: AllocationProblem) -> None:
    feasible = enumerate_choices(problem)
    if not feasible:
        with pytest.raises(BudgetError):
            allocate(problem)
        return
    best = min(value for value, _ in feasible)
    found = allocate(problem, gap=1e-6)
    assert found.objective == pytest.approx(best, rel=1e-5, abs=1e-9)
    assert found.bound <= best * (1 + 1e-6) + 1e-9
    for budget, predicted in zip(problem.budgets, found.predicted, strict=True):
        assert predicted == budget.cost(found.kept) <= budget.limit


def test_budget_out_of_reach_names_the_least_value() -> None:
    cost = CostPolynomial(10.0, {0: 5.0})
    problem = AllocationProblem((np.array([3.0, 2.0, 1.0, 0.0]),), (Budget("macs", cost, 12.0),))
    with pytest.raises(BudgetError, match="macs cannot go below 15 "):
        allocate(problem)


def test_units_that_do_no_damage_go_even_where_the_budget_lets_them_stay() -> None:
    problem = AllocationProblem((np.array([1.0, 0.5, 0.0, 0.0]),), (Budget("macs", CostPolynomial(0, {0: 1.0}), 3.0),))
    assert allocate(problem).kept == (2,)


def test_fixed_groups_and_minimum_widths_hold() -> None:
    damage = tuple(np.linspace(1, 0, 9) for _ in range(3))
    budget = Budget("macs", CostPolynomial(0, {0: 1.0, 1: 1.0, 2: 1.0}), 17.0)
    found = allocate(AllocationProblem(damage, (budget,), minimum=(1, 5, 1), fixed=frozenset({0})))
    assert found.kept[0] == 8
    assert found.kept[1] >= 5
    assert sum(found.kept) <= 17


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30))
def test_lower_hull_gives_the_least_line(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    k = np.cumsum(rng.integers(1, 5, n)).astype(float)
    v, x = rng.standard_normal(n) * 10, rng.standard_normal(20) * 5
    assert lowest_line(x, k, v) == pytest.approx((x[:, None] * k + v).min(axis=1))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
def test_damage_of_scores_is_convex_and_ends_at_nothing(seed: int, n: int) -> None:
    scores = np.random.default_rng(seed).random(n)
    damage = removal_to_damage(scores)
    assert damage[n] == 0
    assert damage[0] == pytest.approx(scores.sum())
    assert (np.diff(damage, 2) >= -1e-12).all()


def test_costs_of_a_model_are_exact_at_every_choice_of_widths() -> None:
    space = analyse(
        load(
            example(
                """g (float[N,3,6,6] x) => (float[N,4] y) {
                a = Conv (x, w1, b1)
                b = Conv <group = 2> (a, w2)
                c = Concat <axis = 1> (a, b)
                d = Conv <group = 14> (c, w3)
                f = Flatten (d)
                y = Gemm (f, w4) }""",
                {
                    "w1": (8, 3, 3, 3),
                    "b1": (8,),
                    "w2": (6, 4, 1, 1),
                    "w3": (14, 1, 1, 1),
                    "w4": (14 * 16, 4),
                },
            )
        )
    )
    costs = CostModel(space)
    macs, params, size = costs.macs(), costs.params(), costs.bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        removed = space.none_removed()
        for group in space.groups:
            removed[rng.choice(group.units, rng.integers(0, len(group)), replace=False)] = True
        kept, exact = space.kept(removed), space.costs(removed)
        assert (macs(kept), params(kept), size(kept)) == (exact.macs, exact.params, exact.bytes)
