"""Small problems, of which all choices are looked at: they come out as from the programs, and load no solver."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_allocate import brute_force, problems

from onnxprune.allocation import exhaustive
from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import AllocationProblem, Budget
from onnxprune.allocation.table import CostTable
from onnxprune.core.errors import BudgetError


@pytest.fixture(autouse=True)
def by_programs() -> None:
    """In this file they are not asked."""


@given(problems())
@settings(max_examples=200)
def test_the_choice_is_the_best_of_all(problem: AllocationProblem) -> None:
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(BudgetError):
            allocate(problem)
        return
    found = allocate(problem)
    assert found.objective == pytest.approx(expected, abs=1e-12)
    assert (found.status, found.gap, found.nodes) == ("optimal", 0.0, 0)
    assert all(value <= budget.limit for value, budget in zip(found.predicted, problem.budgets, strict=True))


@given(st.integers(0, 10_000))
@example(1953)  # no width of one group alone brings this nearer to its budget
@example(84)  # rounding alone moved this one for ever
@settings(max_examples=50)
def test_measured_costs_count_by_width_and_by_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 3).tolist()
    widths = {g: np.arange(1, size + 1) for g, size in enumerate(sizes)}
    damage = tuple(np.append(np.sort(rng.random(size))[::-1], 0.0) for size in sizes)
    alone = {g: np.sort(rng.random(size)) for g, size in enumerate(sizes)}
    pairs = {(0, 2): rng.random((sizes[0], sizes[2]))}
    cost = CostTable(widths, 1.0, alone, pairs)
    problem = AllocationProblem(damage, (Budget("time", cost, cost(sizes) * rng.uniform(0.5, 1.0)),), allowed=widths)
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(BudgetError):
            allocate(problem)
    else:
        assert allocate(problem).objective == pytest.approx(expected, abs=1e-12)


@given(problems())
@settings(max_examples=30)
def test_programs_find_the_same(problem: AllocationProblem) -> None:
    try:
        found = allocate(problem, gap=0.0)
    except BudgetError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exhaustive, "_MOST_CHOICES", 0)
        assert allocate(problem, gap=0.0).objective == pytest.approx(found.objective, abs=1e-6)


def test_no_solver_is_loaded() -> None:
    code = """
import sys
import numpy as np
from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import AllocationProblem, Budget, CostPolynomial
curve = np.array([9.0, 2.0, 1.0, 0.0])
cost = CostPolynomial(0.0, {0: 1.0}, {(0, 1): 2.0})
print(allocate(AllocationProblem((curve, curve), (Budget("macs", cost, 12.0),))).kept)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"scipy", "pyscipopt"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(3, 1)", "[]"]
