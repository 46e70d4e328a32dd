"""Solves the affine program with rows of gates that are added where a solution breaks them, up to the joint optimum.

The affine program has no rows for gates. Where (nearly) all are decided, the joint program is the affine one with these
rows, of which few bind: so the program is solved, the rows that the solution breaks most are written out and added, and
so on, until none is broken. Every optimum on the way is a lower bound on the joint one, and the last is the joint one.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.sparse import csr_array, vstack

from onnxprune.importance.oamip.gate_rows import GateRows, Rows
from onnxprune.importance.oamip.program import OamipProgram
from onnxprune.importance.oamip.solve import Solution, solve

_ROUNDS = 40


@dataclass(frozen=True, slots=True)
class WithRows:
    """A program with the rows that were added, and its solution.

    Attributes:
        program: the program.
        solution: its optimum; of the status `limit` too where rows are broken when the rounds or the time are over.
        added: number of rows.
        rounds: times that the program was solved.
        violation: the largest violation of a row that is left, relative to the sizes of values.
    """

    program: OamipProgram
    solution: Solution
    added: int
    rounds: int
    violation: float


def solve_with_rows(
    program: OamipProgram, gates: GateRows, units: np.ndarray, name: str, *, time_limit: float | None, seed: int
) -> WithRows:
    """Solve a program, and add the rows of gates that the solution breaks, until none is broken.

    Args:
        program: the affine program.
        gates: the rows of its images.
        units: the unit of each score, in the order of the program's layers.
        name: what messages call the program.
        time_limit: seconds, for all rounds.
        seed: seed of the solver.

    Raises:
        SolverError: a solver failed.
    """
    deadline = np.inf if time_limit is None else perf_counter() + time_limit
    columns = np.concatenate(program.layers)
    linear = program.linear
    lower = linear.column_lower.copy()
    lower[columns] = np.maximum(lower[columns], gates.least[units])
    before = program.linear.A.shape[0]
    program = replace(program, linear=replace(linear, column_lower=lower))
    scores = np.ones(gates.units)
    for number in range(1, _ROUNDS + 1):
        left = None if time_limit is None else max(0.0, deadline - perf_counter())
        solution = solve(program, name, time_limit=left, seed=seed, vertex=False)
        scores[units] = np.clip(solution.x[columns], 0.0, 1.0)
        rows = gates.at(scores)
        if not rows.nodes or number == _ROUNDS or perf_counter() >= deadline:
            break
        program = _extended(program, rows, units, columns)
    violation = gates.violation(scores)
    status = solution.status if violation == 0 else "limit"
    return WithRows(program, replace(solution, status=status), program.linear.A.shape[0] - before, number, violation)


def _extended(program: OamipProgram, rows: Rows, units: np.ndarray, columns: np.ndarray) -> OamipProgram:
    """The program with more rows; scores of units that it has no column for are 1."""
    linear = program.linear
    wide = np.zeros((len(rows.lower), len(linear.c)))
    wide[:, columns] = rows.matrix[:, units]
    others = rows.matrix.sum(axis=1) - rows.matrix[:, units].sum(axis=1)
    extended = replace(
        linear,
        A=csr_array(vstack([linear.A, csr_array(wide)], format="csr")),
        row_lower=np.concatenate([linear.row_lower, rows.lower - others]),
        row_upper=np.concatenate([linear.row_upper, rows.upper - others]),
    )
    return replace(program, linear=extended, blocks=(*program.blocks, *((node, 1) for node in rows.nodes)))
