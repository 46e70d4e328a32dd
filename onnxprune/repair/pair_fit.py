"""Refits two consecutive layers (producer and consumer of a pruned group) together, by gradient descent.

Refitting consumers alone leaves the kept units as they were, though others of their kind are gone. Here the weights of
the layer that makes the units and of the layer that uses them are fitted at once, to the original's values at the
consumer's fit target (`structure.fit_targets`). With corrections `U`, `V` of the two weight matrices (and of the
biases), rows `X` of the producer's input, the activation `a` in between and the consumer's columns `cols`, what is
minimised is

    |residual(cols(a(z + X U)) (W + V))|^2,

with `z` the producer's present values, by Adam (Kingma and Ba, 2015) from zero corrections, its steps relative to the
size of the weights and falling along a cosine. Steps on a few fresh rows each get further than many steps on the same
rows, and overfit less; where rows are few, the number of steps grows while held-out rows gain. The result is accepted
where held-out rows agree. No labels, no pass through the rest of the network.
"""

from dataclasses import replace
from math import prod

import numpy as np

from onnxprune.calibration.layer_matrix import to_matrix
from onnxprune.repair.middle import Middle
from onnxprune.repair.pairs import Pair, PairFit, tile_of
from onnxprune.repair.pooling import Readers
from onnxprune.repair.ridge import Correction, residual

_STEPS = 400  # with few calibration rows; with more of them more are worth their time
_MOST_STEPS = 800
_STEPS_PER_ROW = 0.4
_LEAST_STEPS = 100
_ROWS = 256  # a step
_RATE = 0.04  # of the root mean square of each weight
_BIAS_RATE = 0.1  # of that, relative to the spread of the values
_DECAYS = (0.9, 0.99)
_FEW_PASSES = 16  # over the rows; where there are more, fewer steps are tried first
_OPERATIONS = 2e11
_PIECE = 4096


class PairLoss:
    """The squared error at the consumer's fit target as a function of corrections of both layers, with gradient.

    Corrections are four arrays: `(groups, K, C / groups)` and `(C,)` of the producer, where K runs over the kernel and
    then over the channels of a group, and `(kernel, C, C_out)` and `(C_out,)` of the consumer.

    Args:
        pair: the two layers.
        between: what lies between them.
        weights: present weights of producer and consumer.
        kind: type to compute in.
    """

    def __init__(self, pair: Pair, between: Middle, weights: tuple[np.ndarray, np.ndarray], kind: np.dtype) -> None:
        self._pair, self._between = pair, between
        self._readers: Readers | None = None
        self._slopes = pair.producer.slope.astype(kind), pair.consumer.slope.astype(kind)
        first, second = to_matrix(pair.producer.layer, weights[0]), to_matrix(pair.consumer.layer, weights[1])[0]
        width = first.shape[0] * first.shape[2]
        # One matrix (C, C_out) for each place of the kernel.
        kernel = second.reshape(width, -1, second.shape[1]).transpose(1, 0, 2) * pair.consumer.gain
        self._kernel = kernel.astype(kind)
        self.shapes = first.shape, (width,), kernel.shape, (second.shape[1],)
        self.sizes = float(np.sqrt(np.mean(first**2))), float(np.sqrt(np.mean(kernel**2)))

    def zeros(self) -> list[np.ndarray]:
        """Corrections that change nothing."""
        return [np.zeros(shape, self._kernel.dtype) for shape in self.shapes]

    def prepared(self, rows: PairFit) -> PairFit:
        """The rows with the consumer's own product subtracted from `current`.

        What is left is the share of other branches and of the bias.
        """
        rest = np.empty_like(rows.current)
        for piece in _pieces(rows):
            some = rows.part(piece)
            product = self._columns(some.made, some) @ self._kernel.reshape(-1, rest.shape[2])
            rest[piece] = some.current - (product * self._slopes[1]).reshape(some.current.shape)
        return replace(rows, current=rest)

    def value(self, rows: PairFit, corrections: list[np.ndarray]) -> float:
        """Mean squared error on prepared rows."""
        squares = (np.square(self._forward(rows.part(piece), corrections)[-1]) for piece in _pieces(rows))
        return sum(float(np.sum(errors, dtype=np.float64)) for errors in squares) / rows.target.size

    def gradient(self, rows: PairFit, corrections: list[np.ndarray]) -> list[np.ndarray]:
        """Gradient of `value` in the corrections."""
        made, columns, rest = self._forward(rows, corrections)
        back = rest * (self._slopes[1] * rest.dtype.type(-2.0 / rest.size))
        kernel = self._kernel + corrections[2]
        d_seen = (back @ kernel.reshape(-1, kernel.shape[2]).T).reshape(len(made), -1, made.shape[2])
        if rows.tile.reads.size > 1:  # no dense layer
            self._readers = self._readers or Readers(rows.tile.reads, rows.inside.shape[1])
            d_seen = self._readers.summed(d_seen)
        d_made = self._between.gradient(made, rows, d_seen * rows.inside[..., None]) * self._slopes[0]
        flat = d_made.reshape(-1, made.shape[2])
        d_weight = _weight_gradient(_columns_of(rows), flat, self.shapes[0])
        d_kernel = (columns.T @ back).reshape(self.shapes[2])
        return [d_weight, flat.sum(axis=0), d_kernel, back.sum(axis=0)]

    def _forward(self, rows: PairFit, corrections: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values of the producer, columns of the consumer, and residual, with the corrections applied."""
        weight, bias, kernel, shift = corrections
        change = _product(_columns_of(rows), weight).reshape(rows.made.shape)
        made = rows.made + (change + bias) * self._slopes[0]
        whole = self._kernel + kernel
        columns = self._columns(made, rows)
        product = columns @ whole.reshape(-1, whole.shape[2]) + shift
        value = rows.current.reshape(product.shape) + product * self._slopes[1]
        return made, columns, residual(rows.target.reshape(product.shape), value, self._pair.consumer.bounds)

    def _columns(self, made: np.ndarray, rows: PairFit) -> np.ndarray:
        """`(T S, kernel C)` inputs that the consumer's weight multiplies."""
        reads, seen = rows.tile.reads, self._between.value(made, rows)
        # Windows that lie in padding alone have no largest value.
        seen = seen if rows.inside.all() else np.where(rows.inside[..., None], seen, seen.dtype.type(0))
        seen = seen if reads.size == 1 else seen.take(reads, axis=1)
        return np.asarray(seen.reshape(-1, reads.shape[1] * made.shape[2]))


def _columns_of(rows: PairFit) -> np.ndarray:
    """`(T P, kernel, channels)` what the producer's weight multiplies."""
    reads = rows.tile.columns
    gathered = rows.inputs if reads.size == rows.inputs.shape[1] == len(reads) else rows.inputs.take(reads, axis=1)
    return np.asarray(gathered.reshape(-1, reads.shape[1], rows.inputs.shape[2]))


def _product(columns: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`(R, kernel, channels)` columns times `(groups, K, C / groups)` weights, as `(R, C)`."""
    groups, rows = len(weight), len(columns)
    if groups == 1:
        return np.asarray(columns.reshape(rows, -1) @ weight[0])
    if _is_depthwise(columns, weight.shape):
        return np.asarray(np.einsum("rkg,kg->rg", columns, np.ascontiguousarray(weight[..., 0].T)))
    product = np.matmul(_by_group(columns, groups), weight)
    return np.asarray(product.transpose(1, 0, 2).reshape(rows, -1))


def _weight_gradient(columns: np.ndarray, outputs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `_product` in weights of a shape, for an output gradient `(R, C)`."""
    groups, rows = shape[0], len(columns)
    if groups == 1:
        return np.asarray((columns.reshape(rows, -1).T @ outputs)[None])
    if _is_depthwise(columns, shape):
        return np.asarray(np.einsum("rkg,rg->kg", columns, outputs).T[..., None])
    by_group = outputs.reshape(rows, groups, -1).transpose(1, 0, 2)
    return np.asarray(np.matmul(_by_group(columns, groups).transpose(0, 2, 1), by_group))


def _by_group(columns: np.ndarray, groups: int) -> np.ndarray:
    """`(groups, R, K)` columns of each group."""
    parted = columns.reshape(*columns.shape[:2], groups, -1)
    return parted.transpose(2, 0, 1, 3).reshape(groups, len(columns), -1)


def _is_depthwise(columns: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether groups have one input and one output each; plain sums are then faster than many tiny matrix products."""
    return shape[0] == columns.shape[2] and shape[2] == 1


def _pieces(rows: PairFit) -> list[slice]:
    size = max(1, _PIECE // len(rows.tile.reads))
    return [slice(start, start + size) for start in range(0, len(rows.made), size)]


def fit_pair(
    pair: Pair,
    rows: PairFit,
    held_out: PairFit,
    between: Middle,
    weights: tuple[np.ndarray, np.ndarray],
    generator: np.random.Generator,
    steps: int,
) -> tuple[Correction, Correction] | None:
    """Corrections of producer and consumer; None where held-out rows do not improve.

    Args:
        pair: the two layers.
        rows: rows to fit.
        held_out: rows to judge by.
        between: what lies between the layers.
        weights: present weights of producer and consumer.
        generator: draws the order of rows.
        steps: see `steps_for`.
    """
    loss = PairLoss(pair, between, weights, rows.made.dtype)
    spread = float(np.std(rows.made)), float(np.std(rows.target))
    biases = pair.producer.bias is not None, pair.consumer.bias is not None
    rates = (
        loss.sizes[0],
        _BIAS_RATE * spread[0] * biases[0],
        loss.sizes[1],
        _BIAS_RATE * spread[1] * biases[1],
    )
    rows, held_out = loss.prepared(rows), loss.prepared(held_out)
    best, least, last = None, loss.value(held_out, loss.zeros()), np.inf
    passes = steps * _ROWS / (len(rows.made) * len(rows.tile.reads))
    for share in (16, 4, 1) if passes > _FEW_PASSES else (1,):
        corrections = _adam(loss, rows, rates, steps // share, generator)
        if (reached := loss.value(held_out, corrections)) < least:
            best, least = corrections, reached
        if reached > last:  # more steps would only fit these rows closer
            break
        last = reached
    if best is None:
        return None
    weight, bias, kernel, shift = (array.astype(np.float64) for array in best)
    groups, width, outputs = weight.shape
    first = weight.reshape(groups, rows.tile.columns.shape[1], -1, outputs).swapaxes(1, 2).reshape(groups, width, -1)
    second = kernel.transpose(1, 0, 2).reshape(1, -1, kernel.shape[2])
    return Correction(first, bias), Correction(second, shift)


def steps_for(pair: Pair, width: int, shape: tuple[int, ...], rows: int) -> int:
    """Number of optimisation steps for a pair: fewer for large layers, 0 where too few could be afforded.

    Args:
        pair: the two layers.
        width: columns of one of the producer's groups.
        shape: of the consumer's output.
        rows: number of calibration rows.
    """
    consumer = pair.consumer.layer
    tile = tile_of(pair, tuple(n for a, n in enumerate(shape) if a != consumer.output_axis)[1:])
    outputs, kernel = tile.reads.shape
    made, wide = len(pair.producer.slope), len(pair.consumer.slope)
    products = tile.made.shape[1] / outputs * width * made + kernel * made * wide
    wanted = np.clip(_STEPS_PER_ROW * rows, _STEPS, _MOST_STEPS)
    steps = int(min(wanted, _OPERATIONS / (6 * products * _ROWS)))
    return steps if steps >= _LEAST_STEPS else 0


def _adam(
    loss: PairLoss, rows: PairFit, rates: tuple[float, ...], steps: int, generator: np.random.Generator
) -> list[np.ndarray]:
    kind = rows.made.dtype.type
    sizes = [prod(shape) for shape in loss.shapes]
    # One array of all corrections: a step is then a dozen operations of numpy, however small they are.
    flat, means, squares, change = np.zeros((4, sum(sizes)), kind)
    ends = np.cumsum(sizes)
    spans = zip(ends - sizes, ends, loss.shapes, strict=True)
    corrections = [flat[start:end].reshape(shape) for start, end, shape in spans]
    relative = np.repeat(np.asarray(rates, np.float64), sizes)
    size = max(1, _ROWS // len(rows.tile.reads))
    order, start = generator.permutation(len(rows.made)), 0
    for step in range(steps):
        if start and start + size > len(order):
            order, start = generator.permutation(len(rows.made)), 0
        gradients = loss.gradient(rows.part(order[start : start + size]), corrections)
        start += size
        rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        gradient = np.concatenate([part.ravel() for part in gradients])
        means += kind(1 - _DECAYS[0]) * (gradient - means)
        squares += kind(1 - _DECAYS[1]) * (np.square(gradient) - squares)
        root = np.sqrt(squares / kind(1 - _DECAYS[1] ** (step + 1)))
        np.divide(means / kind(1 - _DECAYS[0] ** (step + 1)), root, out=change, where=root > 0)
        change *= (rate * relative).astype(kind)
        flat -= change
        change.fill(0)
    return corrections
