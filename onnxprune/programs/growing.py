"""A linear program to which constraints are added while it is solved, with SCIP's LP interface and warm starts."""

from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.errors import SolverError
from onnxprune.programs.linear import LinearProgram

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_TOLERANCE = 1e-7  # largest violation of a row that is left
_ROWS = 150  # most violated rows given to the solver at a time


class GrowingProgram:
    """Minimises a linear program; its constraints are given to the solver only once they are violated.

    Most rows of the programs here never bind, so that a solver that starts with none of them and is given the most
    violated ones handles a small fraction of the program. The result is the optimum of the whole program.

    Args:
        program: the program, whose columns' bounds must keep the objective finite; `integer` is not looked at.
        name: what messages call it.
        time_limit: seconds from now; None for no limit.
    """

    def __init__(self, program: LinearProgram, name: str, time_limit: float | None = None) -> None:
        from pyscipopt import LP

        self._program = program
        self._name = name
        self._deadline = None if time_limit is None else perf_counter() + time_limit
        self._lp = LP(name)
        self._infinity = float(self._lp.infinity())
        self._given = np.zeros(len(program.row_lower), dtype=bool)
        self._lp.addCols(
            [[] for _ in program.c],
            objs=program.c.tolist(),
            lbs=self._finite(program.column_lower),
            ubs=self._finite(program.column_upper),
        )

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self._deadline is not None and perf_counter() >= self._deadline

    def add(self, rows: "csr_array", lower: np.ndarray, upper: np.ndarray) -> None:
        """Add constraints that are not part of the program (cuts)."""
        if rows.shape[0] == 0:
            return
        ends, columns, values = rows.indptr, rows.indices.tolist(), rows.data.tolist()
        entries = [list(zip(columns[start:stop], values[start:stop], strict=True)) for start, stop in pairwise(ends)]
        self._lp.addRows(entries, lhss=self._finite(lower), rhss=self._finite(upper))

    def give(self, rows: np.ndarray) -> None:
        """Give constraints of the program (by row number) to the solver before they are violated."""
        new = rows[~self._given[rows]]
        self._given[new] = True
        self.add(self._program.A[new], self._program.row_lower[new], self._program.row_upper[new])

    def bound(self, column: int, lower: float, upper: float) -> None:
        """Change the bounds of a variable."""
        self._lp.chgBound(column, lower, upper)

    def cost(self, column: int, value: float) -> None:
        """Change the cost of a variable."""
        self._lp.chgObj(column, value)

    def step(self) -> tuple[np.ndarray, float] | None:
        """Solve with the constraints given so far, then give those that the solution violates.

        Returns:
            The optimum over the rows given so far, and the largest violation of a row of the program there (0 if none
            is above the tolerance: then it is an optimum of the whole program). None where the time ran out.

        Raises:
            SolverError: there is no solution, or the solver failed.
        """
        from pyscipopt import SCIP_LPPARAM

        if self.out_of_time:
            return None
        if self._deadline is not None:
            self._lp.setRealParam(SCIP_LPPARAM.LPTILIM, max(1e-3, self._deadline - perf_counter()))
        try:
            self._lp.solve()
        except Exception as error:
            raise SolverError(f"SCIP's linear program failed on the {self._name}: {error}") from error
        if not self._lp.isOptimal():
            if self.out_of_time:
                return None
            raise SolverError(f"SCIP's linear program ended the {self._name} without an optimum")
        x = np.array(self._lp.getPrimal())
        violation = self._program.violation(x)
        violation[self._given] = 0.0
        worst = np.flatnonzero(violation > _TOLERANCE)
        worst = worst[np.argsort(-violation[worst], kind="stable")[:_ROWS]]
        self.give(worst)
        return x, float(violation[worst].max(initial=0.0))

    def solve(self) -> np.ndarray | None:
        """Solve the whole program; None where the time ran out."""
        while (step := self.step()) is not None:
            if step[1] == 0:
                return step[0]
        return None

    def _finite(self, values: np.ndarray) -> list[float]:
        clipped: list[float] = np.clip(values, -self._infinity, self._infinity).tolist()
        return clipped
