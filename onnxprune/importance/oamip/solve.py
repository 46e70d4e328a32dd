"""Solves the paper's program: cutting planes for log-sum-exp with SCIP, or an interior-point method.

An interior point (`interior`) says where the optimum is and which rows bind; SCIP's linear program with the tangents
there and those rows then proves it, mostly at once. Where it does not, or where no interior point is sought, rounds
follow: `e_m >= logsumexp(z) - z_y` is replaced by tangents, added until the objective of a feasible point is within the
tolerance of the linear program's optimum, which is a lower bound. Tangents are taken between the best feasible point
and that optimum (in-out separation: Ben-Ameur and Neto, "Acceleration of cutting-plane and column generation
algorithms", Networks 2007), which needs fewer of them than tangents at the optimum alone. No building here.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.sparse import csr_array, vstack

from onnxprune.core.errors import SolverError
from onnxprune.core.execution import ONE_THREAD
from onnxprune.importance.oamip.interior_point import applicable, interior_point
from onnxprune.importance.oamip.program import OamipProgram
from onnxprune.programs.growing import GrowingProgram
from onnxprune.programs.linear import LinearProgram
from onnxprune.programs.scip import solve as solve_integer

TOLERANCE = 1e-5  # gap, relative to the objective, at which a program counts as solved
_TOWARDS = 0.7  # where tangents are taken on the way from the best point to the optimum of the linear program
_ROUNDS = 500
_INSIDE = 0.999  # share of the way to the first violated row that is taken
_PRICED = 1e-6  # multiplier above which a row is given to the linear program at once
_PROOF_S = 10.0  # seconds for the proof of what is already known to be optimal, at least


@dataclass(frozen=True, slots=True)
class Solution:
    """The best point found, its objective, and the bound.

    Attributes:
        x: `(n,)` the best point.
        objective: its value, with exact log-sum-exp.
        bound: no point has a value below this.
        status: "optimal" where the two are within the tolerance, else "limit".
        rounds: linear (or integer) programs solved.
        seconds: wall time.
    """

    x: np.ndarray
    objective: float
    bound: float
    status: str
    rounds: int
    seconds: float

    @property
    def gap(self) -> float:
        """`objective - bound`, relative to the objective."""
        return (self.objective - self.bound) / max(1.0, abs(self.objective))


class _Cuts:
    """The tangent planes added so far."""

    def __init__(self) -> None:
        self.rows: list[csr_array] = []
        self.sides: list[np.ndarray] = []

    def at(self, program: OamipProgram, x: np.ndarray, images: np.ndarray) -> tuple[csr_array, np.ndarray]:
        rows, sides = program.tangents(x, images)
        self.rows.append(rows)
        self.sides.append(sides)
        return rows, sides

    def joined(self, linear: LinearProgram) -> LinearProgram:
        """The linear program with the tangent planes as rows."""
        sides = np.concatenate(self.sides)
        return replace(
            linear,
            A=csr_array(vstack([linear.A, *self.rows], format="csr")),
            row_lower=np.concatenate([linear.row_lower, sides]),
            row_upper=np.concatenate([linear.row_upper, np.full(len(sides), np.inf)]),
        )


def solve(
    program: OamipProgram, name: str, *, time_limit: float | None = None, seed: int = 0, vertex: bool = True
) -> Solution:
    """Solve a program.

    Args:
        program: the program.
        name: what messages call it.
        time_limit: seconds; the original network is a feasible point, so that there always is a solution.
        seed: seed of the solver.
        vertex: whether a vertex is wanted, where many points are optimal: it has more scores of 0 and 1. Else the
            interior point, which lies in the middle of them, is taken where its multipliers prove it.

    Raises:
        SolverError: the rows contradict each other, or a solver failed.
    """
    began = perf_counter()
    program.check(name)
    cuts = _Cuts()
    relaxed = _solve_relaxed(program, name, time_limit, cuts, vertex=vertex)
    if not program.linear.integer.any():
        return replace(relaxed, seconds=perf_counter() - began)
    seconds_left = None if time_limit is None else time_limit - (perf_counter() - began)
    solution = _solve_integer(program, name, relaxed, seconds_left, cuts, seed)
    return replace(solution, rounds=solution.rounds + relaxed.rounds, seconds=perf_counter() - began)


def _close(objective: float, bound: float) -> bool:
    return objective - bound <= TOLERANCE * max(1.0, abs(objective))


def _solve_relaxed(
    program: OamipProgram, name: str, time_limit: float | None, cuts: _Cuts, *, vertex: bool
) -> Solution:
    """Solve the program with integer variables relaxed."""
    began = perf_counter()
    linear = program.linear
    every = np.arange(len(program.targets))
    best, objective, bound = program.start, program.objective(program.start), -np.inf
    priced = np.zeros(0, dtype=np.int64)
    if applicable(program):
        with ONE_THREAD:
            interior = interior_point(program, TOLERANCE / 2, time_limit)
        best, objective, bound = interior.x, interior.objective, interior.bound
        priced = np.flatnonzero(np.abs(interior.prices) > _PRICED)
    proved = _close(objective, bound)
    if proved and not vertex:
        return Solution(best, objective, bound, "optimal", 0, 0.0)
    spent = perf_counter() - began
    seconds_left = None if time_limit is None else time_limit - spent
    if proved:
        seconds_left = min(np.inf if seconds_left is None else seconds_left, max(_PROOF_S, spent))
    simplex = GrowingProgram(linear, name, seconds_left)
    simplex.give(priced)

    def cut(x: np.ndarray, images: np.ndarray) -> None:
        rows, sides = cuts.at(program, x, images)
        simplex.add(rows, sides, np.full(len(sides), np.inf))

    cut(best, every)
    status, rounds, stalled = "optimal" if proved else "limit", 0, False
    try:
        while rounds < _ROUNDS and (step := simplex.step()) is not None:
            rounds += 1
            x, violation = step
            value = float(linear.c @ x)
            stalled, bound = value <= bound + TOLERANCE * max(1.0, abs(value)) * 0.1, max(bound, value)
            point = x if violation == 0 else _furthest(linear, best, x)
            reached = program.objective(point)
            # A vertex has scores of 0 and 1 where the way to it has not: at equal value it is the better point.
            if reached < objective or (violation == 0 and _close(reached, bound)):
                best, objective = program.completed(point), reached
            if _close(objective, bound):
                status = "optimal"
                break
            cut(best + _TOWARDS * (x - best), every)
            short = np.flatnonzero(program.losses(x) - x[program.loss_columns] > 0.1 * TOLERANCE)
            if (stalled or rounds % 2 == 0) and len(short):
                cut(x, short)
    except SolverError as error:
        if not proved:  # else the multipliers of the interior point have proved it already
            raise SolverError(
                f"{error}; use fewer --oamip-images, a larger --oamip-epsilon, or --oamip-decoupled"
            ) from error
    return Solution(best, objective, min(bound, objective), status, rounds, 0.0)


def _furthest(linear: LinearProgram, start: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The last feasible point on the line from a feasible point to `x`."""
    activity, change = linear.A @ start, linear.A @ (x - start)
    moving = np.abs(change) > 1e-12
    side = np.where(change > 0, linear.row_upper, linear.row_lower)[moving]
    step = np.min((side - activity[moving]) / change[moving], initial=1.0)
    return np.asarray(start + _INSIDE * max(0.0, float(step)) * (x - start))


def _solve_integer(
    program: OamipProgram, name: str, relaxed: Solution, time_limit: float | None, cuts: _Cuts, seed: int
) -> Solution:
    """Solve the program with integer variables: SCIP on the tangent planes so far, new ones at its optimum, in turn."""
    began = perf_counter()
    best, objective = program.start, program.objective(program.start)
    bound, status = relaxed.bound, "limit"
    every = np.arange(len(program.targets))
    rounds = 0
    while rounds < _ROUNDS:
        seconds_left = None if time_limit is None else time_limit - (perf_counter() - began)
        if seconds_left is not None and seconds_left <= 0:
            break
        joined = cuts.joined(program.linear)
        solved = solve_integer(joined, name, start=best, gap=TOLERANCE / 10, time_limit=seconds_left, seed=seed)
        rounds += 1
        bound = max(bound, solved.bound)
        reached = program.objective(solved.x)
        if reached < objective:
            best, objective = program.completed(solved.x), reached
        if _close(objective, bound):
            status = "optimal"
            break
        cuts.at(program, solved.x, every)
    return Solution(best, objective, min(bound, objective), status, rounds, 0.0)
