"""Tightens the bounds of activations by solving small linear programs."""

import numpy as np

from onnxprune.importance.oamip.affine import AffineFunctions, Builder, widened
from onnxprune.programs.growing import GrowingProgram
from onnxprune.programs.linear import LinearProgram

_MARGIN = 1e-6  # what the solver's tolerance may take from a bound, relative to its size


def tightened(a: AffineFunctions, builder: Builder, first: int) -> AffineFunctions:
    """The same functions with tighter intervals, valid under the rows from block `first` on (integers relaxed).

    Positions that can be positive get two linear programs each; the others are off whatever the scores.

    Raises:
        SolverError: a linear program failed.
    """
    open_ = np.flatnonzero((a.upper > 0) & a.depends)
    if not len(open_):
        return a
    rows, low, high = builder.rows(first)
    columns = builder.columns
    program = LinearProgram(
        np.zeros(columns), rows, low, high, builder.lower, builder.upper, np.zeros(columns, dtype=bool)
    )
    simplex = GrowingProgram(program, "program that tightens bounds")
    matrix = widened(a.matrix, columns)
    lower, upper = a.lower.copy(), a.upper.copy()
    for i in open_:
        span = slice(matrix.indptr[i], matrix.indptr[i + 1])
        index, value = matrix.indices[span], matrix.data[span]
        for sign, bound in ((1.0, lower), (-1.0, upper)):
            for j, v in zip(index, value, strict=True):
                simplex.cost(int(j), sign * float(v))
            x = simplex.solve()
            if x is not None:
                reached = float(a.constant[i] + value @ x[index])
                margin = _MARGIN * (1 + abs(reached))
                bound[i] = max(bound[i], reached - margin) if sign > 0 else min(bound[i], reached + margin)
        for j in index:
            simplex.cost(int(j), 0.0)
    return a.with_bounds(lower, upper)
