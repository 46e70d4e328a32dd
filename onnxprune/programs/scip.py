"""Solves mixed-integer programs with SCIP."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import current_thread, main_thread
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.errors import SolverError
from onnxprune.programs.linear import LinearProgram

if TYPE_CHECKING:
    from pyscipopt import Model

_LOG = logging.getLogger(__name__)
_FEASIBILITY = 1e-9  # SCIP's strictest


@dataclass(frozen=True, slots=True)
class Solved:
    """SCIP's result: best point, objective, dual bound, branch-and-bound nodes and wall time."""

    x: np.ndarray
    objective: float
    bound: float
    nodes: int
    seconds: float


def solve(
    program: LinearProgram,
    name: str,
    *,
    start: np.ndarray | None = None,
    gap: float = 0.0,
    node_limit: int | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    tight: bool = False,
) -> Solved:
    """Solve a mixed-integer program.

    Args:
        program: the program.
        name: what messages call it.
        start: `(n,)` a feasible point to start from.
        gap: relative gap between objective and bound at which to stop.
        node_limit: branch-and-bound nodes.
        time_limit: seconds.
        seed: seed of the solver.
        tight: the relaxation is nearly exact as it is: no cutting planes, and a quick presolve. They would take most of
            the time and hardly move the bound.

    Raises:
        SolverError: SCIP ended without a solution (infeasible, or a limit was reached before the first).
        KeyboardInterrupt: the user interrupted it.
    """
    from pyscipopt import SCIP_PARAMSETTING, Model
    from pyscipopt.scip import Expr, Term

    began = perf_counter()
    model = Model(name)
    model.hideOutput(not _LOG.isEnabledFor(logging.DEBUG))
    model.setParams({"limits/gap": gap, "numerics/feastol": _FEASIBILITY, "randomization/randomseedshift": seed})
    if tight:
        model.setSeparating(SCIP_PARAMSETTING.OFF)
        model.setPresolve(SCIP_PARAMSETTING.FAST)
    if node_limit is not None:
        model.setParam("limits/totalnodes", node_limit)
    if time_limit is not None:
        model.setParam("limits/time", max(0.0, time_limit))
    x = [
        model.addVar(
            lb=low if np.isfinite(low) else None,
            ub=high if np.isfinite(high) else None,
            obj=cost,
            vtype="I" if integer else "C",
        )
        for low, high, cost, integer in zip(
            program.column_lower, program.column_upper, program.c, program.integer, strict=True
        )
    ]
    terms = [Term(variable) for variable in x]
    ends = program.A.indptr
    for r, (low, high) in enumerate(zip(program.row_lower, program.row_upper, strict=True)):
        span = slice(ends[r], ends[r + 1])
        row = Expr({terms[j]: v for j, v in zip(program.A.indices[span], program.A.data[span], strict=True)})
        if low == high:
            model.addCons(row == high)
            continue
        if np.isfinite(high):
            model.addCons(row <= high)
        if np.isfinite(low):
            model.addCons(row >= low)
    if start is not None:
        first = model.createSol()
        for variable, value in zip(x, start, strict=True):
            model.setSolVal(first, variable, value)
        model.addSol(first)
    _optimise(model)
    if model.getStatus() == "userinterrupt":  # it would pass for done
        raise KeyboardInterrupt
    if model.getNSols() == 0:
        raise SolverError(f"SCIP ended the {name} without a solution (status {model.getStatus()})")
    best = model.getBestSol()
    return Solved(
        x=np.array([model.getSolVal(best, variable) for variable in x]),
        objective=float(model.getObjVal()),
        bound=float(model.getDualbound()),
        nodes=int(model.getNTotalNodes()),
        seconds=perf_counter() - began,
    )


def _optimise(model: "Model") -> None:
    """Solve, and end early at Ctrl-C without a word of SCIP, whose own handler prints how often it was pressed.

    Only the main thread hears of Ctrl-C, and only while it runs Python: so it waits, and another one solves.
    """
    if current_thread() is not main_thread():
        model.optimize()
        return
    model.setParam("misc/catchctrlc", False)
    with ThreadPoolExecutor(1) as one:
        solving = one.submit(model.optimizeNogil)
        try:
            solving.result()
        except KeyboardInterrupt:
            model.interruptSolve()
            raise
