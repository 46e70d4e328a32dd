"""Solves the linear relaxation of a program with HiGHS (through scipy), including duals."""

from dataclasses import dataclass

import numpy as np

from onnxprune.core.errors import SolverError
from onnxprune.programs.linear import LinearProgram


@dataclass(frozen=True, slots=True)
class Relaxed:
    """Optimum of a relaxation: value, `(n,)` point, and `(m,)` duals (change of the value per unit of a row's side)."""

    value: float
    x: np.ndarray
    duals: np.ndarray


def relax(
    program: LinearProgram, name: str, time_limit: float | None = None, *, interior: bool = False
) -> Relaxed | None:
    """Solve the linear relaxation; None where the time ran out.

    Args:
        program: the program; `integer` is not looked at.
        name: what messages call the program.
        time_limit: seconds.
        interior: solve by the interior-point method, and cross over to a vertex; for large programs of many rows.

    Raises:
        SolverError: HiGHS failed, or the relaxation has no solution.
    """
    from scipy.optimize import linprog
    from scipy.sparse import vstack

    equal = program.row_lower == program.row_upper
    above = np.flatnonzero(~equal & np.isfinite(program.row_upper))
    below = np.flatnonzero(~equal & np.isfinite(program.row_lower))
    result = linprog(
        program.c,
        A_eq=program.A[equal],
        b_eq=program.row_upper[equal],
        A_ub=vstack([program.A[above], -program.A[below]]),
        b_ub=np.concatenate([program.row_upper[above], -program.row_lower[below]]),
        bounds=np.column_stack([program.column_lower, program.column_upper]),
        method="highs-ipm" if interior else "highs-ds",
        options={} if time_limit is None else {"time_limit": time_limit},
    )
    if result.status == 1:
        return None
    if result.status != 0:
        raise SolverError(f"the relaxation of the {name} failed in HiGHS: {result.message}")
    duals = np.zeros(len(equal))
    duals[equal] = result.eqlin.marginals
    np.add.at(duals, above, result.ineqlin.marginals[: len(above)])
    np.subtract.at(duals, below, result.ineqlin.marginals[len(above) :])
    return Relaxed(float(result.fun), result.x, duals)
