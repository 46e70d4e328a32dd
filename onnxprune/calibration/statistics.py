"""Second moments of layers' input columns, accumulated batch by batch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of `(R, K)` columns of each group of a layer.

    Attributes:
        second: `(groups, K, K)` mean of `x x^T`.
        mean: `(groups, K)` mean of `x`.
        rows: how many rows were seen.
    """

    second: np.ndarray
    mean: np.ndarray
    rows: int

    def covariance(self) -> np.ndarray:
        """`(groups, K, K)` second moments about the mean."""
        return np.asarray(self.second - self.mean[:, :, None] * self.mean[:, None, :])


class MomentSums:
    """Sums from which `Moments` are made. Products run in the columns' precision, sums in float64."""

    def __init__(self) -> None:
        self._second: np.ndarray | None = None
        self._first: np.ndarray | None = None
        self._rows = 0

    def add(self, columns: np.ndarray) -> None:
        """Add `(groups, R, K)` columns."""
        second = np.matmul(columns.transpose(0, 2, 1), columns).astype(np.float64)
        first = columns.sum(axis=1, dtype=np.float64)
        self._second = second if self._second is None else self._second + second
        self._first = first if self._first is None else self._first + first
        self._rows += columns.shape[1]

    def finish(self) -> Moments:
        """The moments of everything added.

        Raises:
            ValueError: nothing was added.
        """
        if self._second is None or self._first is None or not self._rows:
            raise ValueError("no rows were added")
        return Moments(self._second / self._rows, self._first / self._rows, self._rows)
