"""Sparse matrices of linear operators on flattened tensors (batch size 1). Plain arrays; knows no graph."""

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy.sparse import coo_array, csr_array

Shape = Sequence[int]


def windows(
    size: Shape, kernel: Shape, strides: Shape, pads: Shape, dilations: Shape, out: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """The input positions that each sliding window reads.

    Args:
        size: spatial size of the input.
        kernel: taps per spatial axis.
        strides: per spatial axis.
        pads: begins, then ends.
        dilations: per spatial axis.
        out: spatial size of the output.

    Returns:
        `(prod(out), prod(kernel))` flat input positions, -1 in the padding, and whether a tap lies within input and
        padding (it may lie beyond both where the output's size was rounded up).
    """
    n = len(size)
    position = np.zeros((1, 1), dtype=np.int64)
    inside = np.ones((1, 1), dtype=bool)
    padded = np.ones((1, 1), dtype=bool)
    for axis in range(n):
        at = np.arange(out[axis])[:, None] * strides[axis] + np.arange(kernel[axis])[None, :] * dilations[axis]
        at = at - pads[axis]
        good = (at >= 0) & (at < size[axis])
        reach = at < size[axis] + pads[n + axis]
        position = _combine(position * size[axis], np.where(good, at, 0), np.add)
        inside = _combine(inside, good, np.logical_and)
        padded = _combine(padded, reach, np.logical_and)
    return np.where(inside, position, -1), padded


def _combine(first: np.ndarray, second: np.ndarray, how: np.ufunc) -> np.ndarray:
    """Outer combination of arrays `(o1, t1)` and `(o2, t2)` to `(o1 * o2, t1 * t2)`."""
    both: np.ndarray = how(first[:, None, :, None], second[None, :, None, :])
    return both.reshape(first.shape[0] * second.shape[0], first.shape[1] * second.shape[1])


def convolution(weight: np.ndarray, at: np.ndarray, positions: int, group: int) -> csr_array:
    """The matrix of a convolution.

    Args:
        weight: `(C_out, C_in / group, *kernel)`.
        at: `(O, taps)` input positions, from `windows`.
        positions: number of spatial positions of the input.
        group: number of groups.

    Returns:
        `(C_out * O, C_in * positions)`.
    """
    c_out, c_in = weight.shape[:2]
    size, taps = at.shape
    flat = np.asarray(weight, dtype=np.float64).reshape(c_out, c_in, taps)
    first = np.arange(c_out) // (c_out // group) * c_in
    channel = first[:, None] + np.arange(c_in)[None, :]
    columns = channel[:, None, :, None] * positions + at[None, :, None, :]
    values = np.broadcast_to(flat[:, None], columns.shape)
    used = np.broadcast_to((at >= 0)[None, :, None, :], columns.shape) & (values != 0)
    rows = np.broadcast_to(np.arange(c_out * size).reshape(c_out, size, 1, 1), columns.shape)
    shape = (c_out * size, c_in * group * positions)
    return coo_array((values[used], (rows[used], columns[used])), shape=shape).tocsr()


def averaging(at: np.ndarray, counted: np.ndarray, channels: int, positions: int) -> csr_array:
    """The matrix of an average pooling; `counted` `(O,)` is what each window's sum is divided by."""
    from scipy.sparse import kron

    rows, taps = np.nonzero(at >= 0)
    one = coo_array((1.0 / counted[rows], (rows, at[rows, taps])), shape=(len(at), positions)).tocsr()
    return csr_array(kron(identity(channels), one, format="csr"))


def identity(n: int) -> csr_array:
    """The identity matrix."""
    return diagonal(np.ones(n))


def diagonal(values: np.ndarray) -> csr_array:
    """A diagonal matrix."""
    n = np.arange(len(values) + 1)
    return csr_array((np.asarray(values, dtype=np.float64), n[:-1], n), shape=(len(values), len(values)))


def selection(source: np.ndarray, n_in: int) -> csr_array:
    """The matrix of an operator that moves values: `output[i] = input[source[i]]`, 0 where `source[i]` is -1."""
    rows = np.flatnonzero(source >= 0)
    return coo_array((np.ones(len(rows)), (rows, source[rows])), shape=(len(source), n_in)).tocsr()


def reduction(shape: Shape, axes: Sequence[int], *, mean: bool) -> csr_array:
    """The matrix of a sum or mean over axes."""
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    index = (
        np.arange(prod(shape)).reshape(tuple(shape)).transpose([*kept, *axes]).reshape(-1, prod(shape[a] for a in axes))
    )
    weight = 1.0 / index.shape[1] if mean else 1.0
    rows = np.repeat(np.arange(len(index)), index.shape[1])
    return coo_array((np.full(index.size, weight), (rows, index.ravel())), shape=(len(index), index.size)).tocsr()


def contraction(shape: Shape, weight: np.ndarray) -> csr_array:
    """The matrix of `x @ weight` for an `x` of this shape and a weight `(K, N)`."""
    from scipy.sparse import kron

    dense = csr_array(np.asarray(weight, dtype=np.float64).T)
    rows = prod(shape[:-1])
    return dense if rows == 1 else csr_array(kron(identity(rows), dense, format="csr"))


def left_contraction(weight: np.ndarray, shape: Shape) -> csr_array:
    """The matrix of `weight @ x` for a weight `(M, K)` and an `x` of shape `(..., K, N)`."""
    from scipy.sparse import kron

    dense = csr_array(np.asarray(weight, dtype=np.float64))
    one = kron(dense, identity(shape[-1]), format="csr")
    batch = prod(shape[:-2])
    return csr_array(one if batch == 1 else kron(identity(batch), one, format="csr"))


def dense(values: np.ndarray) -> csr_array:
    """A matrix given in full."""
    return csr_array(np.asarray(values, dtype=np.float64))
