"""Second moments (uncentred covariance) of the inputs of layers, accumulated batch by batch."""

from dataclasses import dataclass

import numpy as np

_WAITING_BYTES = 32 << 20  # of columns that are multiplied together


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and second moments of the input columns `(R, K)` of a layer, per group.

    Attributes:
        second: `(groups, K, K)` mean of `x x^T`.
        mean: `(groups, K)` mean of `x`.
        rows: how many rows were seen.
    """

    second: np.ndarray
    mean: np.ndarray
    rows: int

    def covariance(self) -> np.ndarray:
        """`(groups, K, K)` covariance matrix of each group's columns."""
        return np.asarray(self.second - self.mean[:, :, None] * self.mean[:, None, :])


class MomentSums:
    """Accumulates `Moments`. Products are computed in the columns' precision, sums in float64."""

    def __init__(self) -> None:
        self._second: np.ndarray | None = None
        self._first: np.ndarray | None = None
        self._rows = 0
        self._waiting: list[np.ndarray] = []

    def add(self, columns: np.ndarray) -> None:
        """Add columns `(groups, R, K)`."""
        self._waiting.append(columns)
        if sum(each.nbytes for each in self._waiting) >= _WAITING_BYTES:
            self._multiply()

    def _multiply(self) -> None:
        """Add the products of all waiting columns at once, which is faster than one by one."""
        columns = np.concatenate(self._waiting, axis=1) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting.clear()
        if self._second is None or self._first is None:
            groups, _, width = columns.shape
            self._second, self._first = np.zeros((groups, width, width)), np.zeros((groups, width))
        with np.errstate(over="ignore", invalid="ignore"):  # left to see in the result
            self._second += np.matmul(columns.transpose(0, 2, 1), columns)
        self._first += columns.sum(axis=1, dtype=np.float64)
        self._rows += columns.shape[1]

    def finish(self) -> Moments:
        """The moments of all columns that were added.

        Raises:
            ValueError: nothing was added.
        """
        if self._waiting:
            self._multiply()
        if self._second is None or self._first is None or not self._rows:
            raise ValueError("no rows were added")
        self._second /= self._rows
        return Moments(self._second, self._first / self._rows, self._rows)
