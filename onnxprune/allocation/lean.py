"""Choices that do less work in the kernels, which a budget on multiply-adds alone does not ask for.

Such a budget can be met with widths that leave the time as it was. So a second limit is set, on the work that the
kernels really do (`work.py`).
"""

from dataclasses import replace

import numpy as np

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import Allocation, AllocationProblem, Budget
from onnxprune.allocation.work import KernelWork


def lean(problem: AllocationProblem, work: KernelWork, limit: float, *, seed: int) -> Allocation:
    """Solve the allocation program with a limit on the kernels' work, at widths that do no more of it than wider ones.

    Args:
        problem: what to decide, at allowed widths.
        work: of the model's kernels.
        limit: how much of it may be left, in the units of `work`.
        seed: seed of the solver.

    Raises:
        BudgetError: the budgets cannot be met with so little work.
        SolverError: the solver failed.
    """
    full = [problem.units(g) for g in range(len(problem.damage))]
    allowed = work.not_slower({g: np.union1d(problem.widths(g), [units]) for g, units in enumerate(full)})
    budget = Budget("kernel work", work.table(allowed), limit)
    limited = replace(problem, allowed=allowed, budgets=(*problem.budgets, budget))
    allocation = allocate(limited, seed=seed)
    return replace(allocation, predicted=allocation.predicted[: len(problem.budgets)])
