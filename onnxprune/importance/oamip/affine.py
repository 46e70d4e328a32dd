"""Affine functions of the program's variables, and the variables and constraints collected while a program is built.

Variables are called columns and constraints rows, as in the program's matrix.

A tensor's value in the program is `constant + matrix x`, one row a position; where it does not depend on the scores the
matrix is empty. Nothing here knows of graphs or solvers.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack

from onnxprune.core.errors import SolverError

Limits = tuple[float, float]
"""The least and the largest value that an input takes."""
UNLIMITED: Limits = (-np.inf, np.inf)
_ROUNDING = 1e-9  # differences that arithmetic in double precision may leave, relative to the numbers compared


@dataclass(frozen=True, slots=True)
class AffineFunctions:
    """One affine function of the columns for each position of a tensor, with an interval for each value.

    Attributes:
        constant: `(n,)`.
        matrix: `(n, columns)`, columns as many as there were when it was made.
        lower: `(n,)` lower bounds; what they bound is said by `Bounds`.
        upper: `(n,)` upper bounds.
    """

    constant: np.ndarray
    matrix: csr_array
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def fixed(cls, value: np.ndarray, radius: float, limits: "Limits" = UNLIMITED) -> "AffineFunctions":
        """A constant tensor, with the interval `value +- radius` around each value, cut to some limits."""
        flat = np.asarray(value, dtype=np.float64).ravel()
        return cls(flat, csr_array((len(flat), 0)), *box_around(flat, radius, limits))

    def with_bounds(self, lower: np.ndarray, upper: np.ndarray) -> "AffineFunctions":
        """The same functions with other intervals."""
        return AffineFunctions(self.constant, self.matrix, lower, upper)

    @property
    def depends(self) -> np.ndarray:
        """`(n,)` whether each position depends on any column."""
        return np.asarray(np.diff(self.matrix.indptr) > 0)


def box_around(value: np.ndarray, radius: float, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of `value +- radius`, cut to the limits, which never cut the value itself off."""
    low, high = np.minimum(value, limits[0]), np.maximum(value, limits[1])
    return np.maximum(value - radius, low), np.minimum(value + radius, high)


def widened(matrix: csr_array, columns: int) -> csr_array:
    """The matrix extended by empty columns on the right."""
    if matrix.shape[1] == columns:
        return matrix
    return csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def sparse(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """A sparse matrix from triplets (row, column, value) without the zeros."""
    used = values != 0
    return coo_array((values[used], (rows[used], columns[used])), shape=shape).tocsr()


def contradiction(node: str, excess: float, program: str = "program") -> SolverError:
    """The error for a constraint that even the original network breaks, by `excess`."""
    return SolverError(
        f"the {program} has no solution: the rows of layer {node!r} contradict each other (by {excess:.1e} at scores "
        "of 1); raise --oamip-epsilon, or use --oamip-bounds valid"
    )


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Constraints `lower <= matrix x <= upper` that one layer adds for one image."""

    node: str
    matrix: csr_array
    lower: np.ndarray
    upper: np.ndarray


class Builder:
    """Collects the columns and rows of a program.

    Rows that always hold are dropped, and rows on a single column become bounds of that column.
    """

    def __init__(self) -> None:
        self.lower = np.zeros(0)
        self.upper = np.zeros(0)
        self.start = np.zeros(0)
        self.integer = np.zeros(0, dtype=bool)
        self.blocks: list[RowBlock] = []

    @property
    def columns(self) -> int:
        """Number of columns so far."""
        return len(self.lower)

    def add_columns(
        self, lower: np.ndarray, upper: np.ndarray, start: np.ndarray, *, integer: bool = False
    ) -> np.ndarray:
        """Add columns with bounds and their values in the original network; returns their numbers."""
        first = self.columns
        self.lower = np.concatenate([self.lower, lower])
        self.upper = np.concatenate([self.upper, upper])
        self.start = np.concatenate([self.start, start])
        self.integer = np.concatenate([self.integer, np.full(len(lower), integer)])
        return np.arange(first, self.columns)

    def at_start(self, constant: np.ndarray, matrix: csr_array) -> np.ndarray:
        """Values of affine functions in the original network, where all scores are 1."""
        return np.asarray(constant + widened(matrix, self.columns) @ self.start)

    def least(self, constant: np.ndarray, matrix: csr_array) -> np.ndarray:
        """Lower bounds of affine functions, from the bounds of the columns."""
        matrix = widened(matrix, self.columns)
        return np.asarray(constant + matrix.maximum(0) @ self.lower + matrix.minimum(0) @ self.upper)

    def add_rows(
        self, node: str, constant: np.ndarray, matrix: csr_array, lower: np.ndarray, upper: np.ndarray
    ) -> None:
        """Require `lower <= constant + matrix x <= upper`; errors name `node`.

        Raises:
            SolverError: the original network itself breaks a row.
        """
        matrix = widened(matrix, self.columns)
        lower, upper = lower - constant, upper - constant
        scale = 1 + abs(matrix) @ np.abs(self.start)
        value = matrix @ self.start
        excess = np.maximum(lower - value, value - upper)
        if np.any(excess > 1e-6 * scale):
            raise contradiction(node, float(excess.max()))
        positive, negative = matrix.maximum(0), matrix.minimum(0)
        most = positive @ self.upper + negative @ self.lower
        least = positive @ self.lower + negative @ self.upper
        slack = _ROUNDING * scale
        upper = np.where(most <= upper + slack, np.inf, np.maximum(upper, value))
        lower = np.where(least >= lower - slack, -np.inf, np.minimum(lower, value))
        needed = np.isfinite(upper) | np.isfinite(lower)
        count = np.diff(matrix.indptr)
        self._bound(matrix, lower, upper, np.flatnonzero(needed & (count == 1)))
        rows = np.flatnonzero(needed & (count > 1))
        if len(rows):
            self.blocks.append(RowBlock(node, matrix[rows], lower[rows], upper[rows]))

    def _bound(self, matrix: csr_array, lower: np.ndarray, upper: np.ndarray, rows: np.ndarray) -> None:
        """Turn rows that involve only one column into bounds of that column."""
        if not len(rows):
            return
        column, value = matrix.indices[matrix.indptr[rows]], matrix.data[matrix.indptr[rows]]
        ends = np.stack([lower[rows] / value, upper[rows] / value])
        np.maximum.at(self.lower, column, ends.min(axis=0))
        np.minimum.at(self.upper, column, ends.max(axis=0))

    def rows(self, first: int = 0) -> tuple[csr_array, np.ndarray, np.ndarray]:
        """All rows from block `first` on: matrix, lower and upper sides."""
        blocks = self.blocks[first:]
        if not blocks:
            return csr_array((0, self.columns)), np.zeros(0), np.zeros(0)
        matrix = vstack([widened(block.matrix, self.columns) for block in blocks], format="csr")
        lower = np.concatenate([block.lower for block in blocks])
        return csr_array(matrix), lower, np.concatenate([block.upper for block in blocks])
