"""Windows over a channel's values as functions of arrays, with their gradients."""

import numpy as np


class Readers:
    """Sums what arrives at places back to the values that were read there.

    Args:
        reads: `(places, window)` which value each place of each window read.
        values: number of values.
    """

    def __init__(self, reads: np.ndarray, values: int) -> None:
        places, window = reads.shape
        self._readers = np.full((window, values), places * window)
        for place in range(window):
            self._readers[place, reads[:, place]] = np.arange(places) * window + place

    def summed(self, spread: np.ndarray) -> np.ndarray:
        """`(T, values, C)` sums over what read each value, from `(T, places * window, C)`.

        Gathering is several times as fast as adding each place of the window to where it was read. What is read
        nowhere takes the zeros behind the last one. No value is read twice by the same place of different windows.
        """
        ended = np.concatenate([spread, np.zeros_like(spread[:, :1])], axis=1)
        total = ended.take(self._readers[0], axis=1)
        for readers in self._readers[1:]:
            total += ended.take(readers, axis=1)
        return np.asarray(total)


class Windows:
    """Maxima or means over windows.

    Args:
        reads: `(Q, window)` which value each place of each window reads.
        values: number of values.
        mean: whether means are taken rather than maxima.
    """

    def __init__(self, reads: np.ndarray, values: int, *, mean: bool) -> None:
        self._reads, self._mean, self._readers = reads, mean, Readers(reads, values)

    def value(self, values: np.ndarray, exists: np.ndarray) -> np.ndarray:
        """`(T, Q, C)` of each window, from `(T, P, C)` values of which some `(T, P)` do not exist."""
        gathered = self._gathered(values, exists)
        return np.asarray(gathered.mean(axis=2) if self._mean else gathered.max(axis=2))

    def gradient(self, values: np.ndarray, exists: np.ndarray, pooled: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient of a number in the values, from that in what `value` made of them."""
        shape = (len(values), -1, values.shape[2])
        if self._mean:
            share = gradient / gradient.dtype.type(self._reads.shape[1])
            spread = np.repeat(share, self._reads.shape[1], axis=1)
        else:
            spread = gradient[:, :, None] * (self._gathered(values, exists) == pooled[:, :, None])
        return np.asarray(self._readers.summed(spread.reshape(shape)) * exists[..., None])

    def _gathered(self, values: np.ndarray, exists: np.ndarray) -> np.ndarray:
        known = values if exists.all() else np.where(exists[..., None], values, values.dtype.type(-np.inf))
        return known.take(self._reads, axis=1)
