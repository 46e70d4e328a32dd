"""Solves the allocation: how many units each group keeps so that all budgets hold and the predicted damage is least.

Where there are few choices, all of them are looked at. Else only a grid of widths enters the integer program; a lower
bound over all widths shows how good the result is.

1. Solve the linear relaxation on a coarse grid; its duals give a lower bound over *all* widths and their reduced costs
   (`bound.py`). Put the widths it asks for on the grid, and repeat until the relaxation on the grid meets the bound.
   The narrower of the widths that a relaxation mixes, and what is left spent greedily, are a choice: often good enough.
2. Solve the integer program on that grid with SCIP, then spend what is left of the budgets greedily.
3. Widths whose reduced cost proves that they cannot lead to a better solution are out. If the gap is not closed, solve
   again with all the others on the grid, as many as fit; if all fit, the program's own bound holds for all widths.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from onnxprune.allocation.bound import LowerBound, lower_bound
from onnxprune.allocation.exhaustive import best_of_all
from onnxprune.allocation.greedy import spend
from onnxprune.allocation.grid import (
    first_grid,
    least_outside,
    next_grid,
    points_per_group,
    promising_grid,
    with_choice,
)
from onnxprune.allocation.normal import NormalForm, normal_form
from onnxprune.allocation.problem import Allocation, AllocationProblem
from onnxprune.allocation.program import Grid, build
from onnxprune.programs.highs import relax
from onnxprune.programs.scip import solve

_GRID_COLUMNS = 8_000
_GRID_POINTS = (6, 12)
_MOST_COLUMNS = 12_000
_RELAXATIONS = 12
_PROGRAMS = 4
_NODES = 500  # of branch and bound, over all programs
_LEAST_NODES = 50
_GROUP_NODES = 50_000  # groups times nodes: a node of a long program takes long, and the gap is small long before
_STALLED = 1e-4  # relative progress of the relaxation that is not worth another grid
_SETTLED = 0.3  # part of the gap that may be left between relaxation and bound
_EXACT = 3
_LEAST_GAP = 1e-6


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits of one allocation: gap to stop at, deadline, branch-and-bound nodes, and the solver's seed."""

    gap: float
    deadline: float | None
    nodes: int
    seed: int

    @property
    def seconds(self) -> float | None:
        """Seconds until the deadline, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - perf_counter())


def allocate(
    problem: AllocationProblem,
    *,
    gap: float = 1e-3,
    time_limit: float | None = None,
    node_limit: int | None = None,
    seed: int = 0,
) -> Allocation:
    """Find the widths with the least predicted damage that meet every budget, up to a relative gap.

    Args:
        problem: groups, damage curves and budgets.
        gap: relative gap between objective and bound at which to stop.
        time_limit: seconds; None leaves only the node limit, so that results repeat exactly.
        node_limit: branch-and-bound nodes, over all programs; None takes 500, and fewer with more than 100 groups.
        seed: seed of the solver.

    Returns:
        Widths that meet every budget exactly (never within a tolerance), with a bound that holds for all widths.

    Raises:
        BudgetError: no choice meets the budgets; names the least value of each that is missed.
        SolverError: a solver failed.
    """
    began = perf_counter()
    problem.check_reachable()
    form = normal_form(problem)
    deadline = None if time_limit is None else began + time_limit
    if node_limit is None:
        node_limit = min(_NODES, max(_LEAST_NODES, _GROUP_NODES // max(1, len(problem.damage))))
    choice, bound, nodes = _decide(problem, form, _Limits(gap, deadline, node_limit, seed))
    objective = form.objective(choice)
    bound = min(objective, max(0.0, bound))
    reached = (objective - bound) / objective if objective > 0 else 0.0
    kept = tuple(form.kept(choice).tolist())
    return Allocation(
        kept=kept,
        objective=objective,
        bound=bound,
        gap=reached,
        status="optimal" if reached <= gap + _LEAST_GAP else "limit",
        seconds=perf_counter() - began,
        nodes=nodes,
        predicted=tuple(budget.cost(kept) for budget in problem.budgets),
    )


def _decide(problem: AllocationProblem, form: NormalForm, limits: _Limits) -> tuple[tuple[int, ...], float, int]:
    """Find a good choice. Returns it, a lower bound on the objective of every choice, and the nodes used."""
    if len(form.alone) == 0:  # no budget binds
        widest = tuple(len(widths) - 1 for widths in form.widths)
        return widest, form.objective(widest), 0
    every = tuple(np.arange(len(widths)) for widths in form.widths)
    best = spend(form, first_grid(form, max(_GRID_POINTS)), form.start)
    objective = form.objective(best)
    if objective <= (least := sum(float(damage[-1]) for damage in form.damage)):
        return best, least, 0
    if (choice := best_of_all(form, lambda choice: problem.holds(form.kept(choice).tolist()))) is not None:
        return choice, form.objective(choice), 0
    lower, grid, rounded = _tighten(form, objective, limits)
    if rounded is not None and form.objective(rounded) < objective:
        best, objective = rounded, form.objective(rounded)
    bound, nodes = lower.bound, 0
    for attempt in range(_PROGRAMS):
        goal = objective * (1 - limits.gap)
        if bound >= goal or nodes >= limits.nodes or limits.seconds == 0:
            break
        if attempt > 0:
            grid = promising_grid(form, lower.reduced, goal - lower.bound, _MOST_COLUMNS)
        grid = with_choice(grid, best)
        choice, proved, more = _solve(problem, form, grid, best, objective, limits, nodes)
        nodes += more
        bound = max(bound, min(proved, lower.bound + least_outside(grid, lower.reduced)))
        choice = spend(form, every, choice)
        improved = form.objective(choice) < objective
        if improved:
            best, objective = choice, form.objective(choice)
        elif attempt > 0:
            break
    return best, bound, nodes


def _tighten(form: NormalForm, scale: float, limits: _Limits) -> tuple[LowerBound, Grid, tuple[int, ...] | None]:
    """Solve relaxations on a sequence of grids. Returns the best bound, a grid for the integer program, and a choice.

    Args:
        form: the problem.
        scale: size of the objective, which solvers' tolerances refer to.
        limits: time.
    """
    points = points_per_group(form, _GRID_COLUMNS, *_GRID_POINTS)
    grid = first_grid(form, points)
    best = LowerBound(0.0, form.damage)  # no budgets at all
    value = np.inf
    every = tuple(np.arange(len(widths)) for widths in form.widths)
    rounded: list[tuple[int, ...]] = []
    for _ in range(_RELAXATIONS):
        built = build(form, grid, scale)
        # Upper bounds follow from the equalities; left out, their duals are part of the equalities' duals.
        unbounded = replace(built.program, column_upper=np.full(len(built.program.c), np.inf))
        relaxed = relax(unbounded, "allocation program", limits.seconds, interior=True)
        if relaxed is None:
            break
        prices = np.maximum(0, -relaxed.duals[built.first_message[-1] :]) * scale
        messages = built.messages(form, relaxed.duals * scale)
        lower = lower_bound(form, grid, prices, messages)
        best = max(best, lower, key=lambda bound_found: bound_found.bound)
        last, value = value, relaxed.value * scale
        used = built.used(relaxed.x)
        narrow = tuple(int(points[0]) for points in used)
        if np.all(form.usage(narrow) <= 1):
            rounded.append(spend(form, every, narrow))
        grid = next_grid(grid, used, lower.reduced, points)
        if value - best.bound <= _SETTLED * limits.gap * value or value > last * (1 - _STALLED):
            break
    return best, grid, min(rounded, key=form.objective, default=None)


def _solve(
    problem: AllocationProblem,
    form: NormalForm,
    grid: Grid,
    start: tuple[int, ...],
    scale: float,
    limits: _Limits,
    nodes: int,
) -> tuple[tuple[int, ...], float, int]:
    """Solve the integer program on a grid. Returns a choice that meets the budgets exactly, a bound, and nodes used.

    SCIP meets a budget up to a tolerance. Where the exact cost is above its limit, the budget's row is tightened by
    the excess and the program solved again; the bound is that of the first.
    """
    built = build(form, grid, scale)
    program, bound, used = built.program, -np.inf, 0
    for _ in range(_EXACT):
        solved = solve(
            program,
            "allocation program",
            start=built.point(form, start),
            gap=limits.gap,
            node_limit=limits.nodes - nodes - used,
            time_limit=limits.seconds,
            seed=limits.seed,
            tight=True,
        )
        used += solved.nodes
        bound = max(bound, solved.bound * scale) if bound == -np.inf else bound
        choice = built.choice(solved.x)
        if problem.holds(form.kept(choice).tolist()):
            return choice, bound, used
        excess = np.maximum(0, form.usage(choice) - 1)
        upper = program.row_upper.copy()
        upper[built.first_message[-1] :] -= 2 * excess
        program = replace(program, row_upper=upper)
    return start, bound, used
