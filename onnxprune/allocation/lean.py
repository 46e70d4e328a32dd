"""Of choices that lose nearly as little, the one that does the least work in the kernels.

A budget on multiply-adds can be met with widths that leave the time as it was. So a second limit is set, on the work
that the kernels really do (`work.py`): the tightest of a few that costs hardly any more damage than none.
"""

from dataclasses import replace

import numpy as np

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import Allocation, AllocationProblem, Budget
from onnxprune.allocation.work import KernelWork
from onnxprune.core.errors import BudgetError

# Of what a budget takes away, the part that may be left in the kernels' work: the tightest first.
_LEFT = (0.0, 0.1, 0.2, 0.3, 0.4)
_LIMITED = "macs"
RATE = 4
"""Power of the saving that damage may grow by at most: by 1.08 for work of 0.98, of which time hardly tells."""


def lean(
    problem: AllocationProblem, work: KernelWork, *, seed: int, worth: float, left: float | None = None
) -> Allocation:
    """Solve the allocation program with a limit on the kernels' work. Without a budget on all MACs there is none.

    Args:
        problem: what to decide, at allowed widths.
        work: of the model's kernels.
        seed: seed of the solver.
        worth: times the predicted damage of the choice without a limit that a tighter one may do at most; where it
            saves little work, less.
        left: of what a budget takes away, the part that may be left in the kernels' work, whatever damage that does;
            None for the least of a few that is worth its damage.

    Raises:
        BudgetError: the budgets cannot be met, or not with so little work.
        SolverError: a solver failed.
    """
    full = [problem.units(g) for g in range(len(problem.damage))]
    shares = [b.limit / b.cost(full) for b in problem.budgets if b.name == _LIMITED and b.cost(full) > 0]
    if not shares or min(shares) >= 1:
        return allocate(problem, seed=seed)
    own = {g: np.union1d(problem.widths(g), [units]) for g, units in enumerate(full)}
    allowed = work.not_slower(own)
    table = work.table(allowed)
    whole = table(full)
    at_widths = replace(problem, allowed=allowed)

    def within(share: float) -> Allocation | None:
        limited = replace(at_widths, budgets=(*problem.budgets, Budget("kernel work", table, share * whole)))
        try:
            allocation = allocate(limited, seed=seed)
        except BudgetError:
            return None
        return replace(allocation, predicted=allocation.predicted[: len(problem.budgets)])

    if left is not None:
        allocation = within(min(shares) + left * (1 - min(shares)))
        if allocation is None:
            raise BudgetError(
                f"no choice leaves so little work in the kernels: {left:.0%} of what the budget takes away"
            )
        return allocation
    try:
        free = allocate(at_widths, seed=seed)
    except BudgetError:  # only widths that are slower meet the budgets
        return allocate(problem, seed=seed)
    if whole == 0:
        return free

    def rate(leaner: Allocation) -> float:
        return float((table(free.kept) / max(table(leaner.kept), 1.0)) ** RATE)

    best = free
    tried = [min(shares) + part * (1 - min(shares)) for part in _LEFT]
    tried = [share for share in tried if share * whole < table(free.kept)]
    low, high = 0, len(tried)
    while low < high:  # damage falls as the limit rises
        middle = (low + high) // 2
        leaner = within(tried[middle])
        if leaner is not None and leaner.objective <= min(worth, rate(leaner)) * free.objective:
            best, high = leaner, middle
        else:
            low = middle + 1
    return best
