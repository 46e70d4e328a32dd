"""Covariance of the inputs of layers, accumulated batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WAITING_BYTES = 32 << 20  # of columns that are multiplied together


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and covariance of the input columns `(R, K)` of a layer, per group.

    Attributes:
        covariance: `(groups, K, K)` mean of `(x - mean) (x - mean)^T`.
        mean: `(groups, K)` mean of `x`.
        rows: how many rows were seen.
    """

    covariance: np.ndarray
    mean: np.ndarray
    rows: int

    def second(self) -> np.ndarray:
        """`(groups, K, K)` mean of `x x^T`, the second moments about zero."""
        return np.asarray(self.covariance + self.mean[:, :, None] * self.mean[:, None, :])


def pooled(parts: Sequence[Moments]) -> Moments:
    """The moments of all rows of several layers that share a weight."""
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.rows for part in parts)
    mean = np.asarray(sum(part.rows * part.mean for part in parts) / rows)
    covariance = np.zeros_like(parts[0].covariance)
    for part in parts:
        apart = part.mean - mean
        covariance += part.rows / rows * (part.covariance + apart[:, :, None] * apart[:, None, :])
    return Moments(covariance, mean, rows)


class MomentSums:
    """Accumulates `Moments`. Products are computed in the columns' precision, sums in float64.

    Products are of columns less the mean of those that came first: of raw columns that hardly vary beside their
    mean, `mean of x x^T - mean mean^T` would leave rounding errors alone (Chan, Golub and LeVeque 1983).
    """

    def __init__(self) -> None:
        self._products: np.ndarray | None = None
        self._first: np.ndarray | None = None
        self._pivot: np.ndarray | None = None
        self._rows = 0
        self._waiting: list[np.ndarray] = []

    def add(self, columns: np.ndarray) -> None:
        """Add columns `(groups, R, K)`."""
        if columns.shape[1]:
            self._waiting.append(columns)
        if sum(waiting.nbytes for waiting in self._waiting) >= _WAITING_BYTES:
            self._multiply()

    def _multiply(self) -> None:
        """Add the products of all waiting columns at once, which is faster than one by one."""
        columns = np.concatenate(self._waiting, axis=1) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting.clear()
        with np.errstate(over="ignore", invalid="ignore"):  # left to see in the result
            if self._products is None or self._first is None or self._pivot is None:
                groups, _, width = columns.shape
                self._products, self._first = np.zeros((groups, width, width)), np.zeros((groups, width))
                self._pivot = columns.mean(axis=1, dtype=np.float64, keepdims=True).astype(columns.dtype)
            columns = columns - self._pivot
            self._products += np.matmul(columns.transpose(0, 2, 1), columns)
        self._first += columns.sum(axis=1, dtype=np.float64)
        self._rows += columns.shape[1]

    def finish(self) -> Moments:
        """The moments of all columns that were added.

        Raises:
            ValueError: nothing was added.
        """
        if self._waiting:
            self._multiply()
        if self._products is None or self._first is None or self._pivot is None or not self._rows:
            raise ValueError("no rows were added")
        self._products /= self._rows
        beyond = self._first / self._rows
        with np.errstate(over="ignore", invalid="ignore"):
            self._products -= beyond[:, :, None] * beyond[:, None, :]
        return Moments(self._products, self._pivot[:, 0].astype(np.float64) + beyond, self._rows)
