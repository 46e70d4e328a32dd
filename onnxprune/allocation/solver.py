"""A linear program as data, its relaxation solved by HiGHS (with duals) and the integer program solved by SCIP."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.sparse import csr_array

from onnxprune.errors import SolverError

_FEASIBILITY = 1e-9  # SCIP's strictest: budgets are relative, and a model's MACs are counted in billions


@dataclass(frozen=True, slots=True)
class LinearProgram:
    """Minimise `c x` subject to `row_lower <= A x <= row_upper`, `column_lower <= x <= column_upper`.

    Attributes:
        c: `(n,)` costs.
        A: `(m, n)` sparse rows.
        row_lower: `(m,)`, may be -inf.
        row_upper: `(m,)`, may be inf.
        column_lower: `(n,)`.
        column_upper: `(n,)`.
        integer: `(n,)` True where x must be integer.
    """

    c: np.ndarray
    A: csr_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    column_lower: np.ndarray
    column_upper: np.ndarray
    integer: np.ndarray


@dataclass(frozen=True, slots=True)
class Relaxed:
    """Optimum of the relaxation: value, `(n,)` point and `(m,)` duals (change of the value per unit of a row's side)."""

    value: float
    x: np.ndarray
    duals: np.ndarray


@dataclass(frozen=True, slots=True)
class Solved:
    """What SCIP found: the best point, its objective, the dual bound, branch-and-bound nodes and wall time."""

    x: np.ndarray
    objective: float
    bound: float
    nodes: int
    seconds: float


def relax(program: LinearProgram, time_limit: float | None = None) -> Relaxed | None:
    """Solve the linear relaxation; rows are equalities or `<=`. None where the time ran out.

    Raises:
        SolverError: HiGHS failed.
    """
    from scipy.optimize import linprog

    equal = program.row_lower == program.row_upper
    result = linprog(
        program.c,
        A_eq=program.A[equal],
        b_eq=program.row_upper[equal],
        A_ub=program.A[~equal],
        b_ub=program.row_upper[~equal],
        bounds=np.column_stack([program.column_lower, np.full(len(program.c), np.inf)]),
        method="highs-ds",
        options={} if time_limit is None else {"time_limit": time_limit},
    )
    if result.status == 1:
        return None
    if result.status != 0:
        raise SolverError(f"the relaxation of the allocation program failed in HiGHS: {result.message}")
    duals = np.zeros(len(equal))
    duals[equal], duals[~equal] = result.eqlin.marginals, result.ineqlin.marginals
    return Relaxed(float(result.fun), result.x, duals)


def solve(
    program: LinearProgram, start: np.ndarray, gap: float, node_limit: int, time_limit: float | None, seed: int
) -> Solved:
    """Solve the integer program from a feasible `start`.

    Raises:
        SolverError: SCIP returned no solution, although it was given one.
    """
    from pyscipopt import Model
    from pyscipopt.scip import Expr, Term

    began = perf_counter()
    model = Model("allocation")
    model.hideOutput()
    model.setParams(
        {
            "limits/gap": gap,
            "limits/totalnodes": node_limit,
            "numerics/feastol": _FEASIBILITY,
            "randomization/randomseedshift": seed,
        }
    )
    if time_limit is not None:
        model.setParam("limits/time", max(0.0, time_limit))
    x = [
        model.addVar(lb=low, ub=high, obj=cost, vtype="I" if integer else "C")
        for low, high, cost, integer in zip(
            program.column_lower, program.column_upper, program.c, program.integer, strict=True
        )
    ]
    terms = [Term(variable) for variable in x]
    ends = program.A.indptr
    for r, (low, high) in enumerate(zip(program.row_lower, program.row_upper, strict=True)):
        span = slice(ends[r], ends[r + 1])
        row = Expr({terms[j]: v for j, v in zip(program.A.indices[span], program.A.data[span], strict=True)})
        model.addCons(row == high if low == high else row <= high)
    first = model.createSol()
    for variable, value in zip(x, start, strict=True):
        model.setSolVal(first, variable, value)
    model.addSol(first)
    model.optimize()
    if model.getNSols() == 0:
        raise SolverError(f"SCIP ended the allocation program without a solution (status {model.getStatus()})")
    best = model.getBestSol()
    return Solved(
        x=np.array([model.getSolVal(best, variable) for variable in x]),
        objective=float(model.getObjVal()),
        bound=float(model.getDualbound()),
        nodes=int(model.getNTotalNodes()),
        seconds=perf_counter() - began,
    )
