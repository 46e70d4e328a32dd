"""A linear program as data. Stages build it; drivers (`scip`, `simplex`, `highs`) solve it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True)
class LinearProgram:
    """A linear program: minimise `c x` so that `row_lower <= A x <= row_upper` and variable bounds hold.

    The bounds are `column_lower <= x <= column_upper`.

    Attributes:
        c: `(n,)` costs.
        A: `(m, n)` sparse rows.
        row_lower: `(m,)`, may be -inf.
        row_upper: `(m,)`, may be inf.
        column_lower: `(n,)`, may be -inf.
        column_upper: `(n,)`, may be inf.
        integer: `(n,)` True where x must be integer.
    """

    c: np.ndarray
    A: "csr_array"
    row_lower: np.ndarray
    row_upper: np.ndarray
    column_lower: np.ndarray
    column_upper: np.ndarray
    integer: np.ndarray

    def violation(self, x: np.ndarray) -> np.ndarray:
        """`(m,)` by how much `x` violates each constraint; 0 where it holds."""
        activity = self.A @ x
        return np.asarray(np.maximum(0.0, np.maximum(self.row_lower - activity, activity - self.row_upper)))
