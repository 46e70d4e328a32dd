"""Corrects a producer together with its consumer: the pair of layers around one pruned group, as one least squares fit.

Refitting consumers alone leaves the kept units as they were, though others of their kind are gone. Here the weights of
the layer that makes the units and of the layer that uses them are fitted at once, to the original's values at the
consumer's fit point (`graph.fitpoint`). With corrections `U`, `V` of the two weight matrices (and of the biases), rows
`X` of the producer's input, the activation `a` in between and the consumer's columns `cols`, what is minimised is

    |residual(cols(a(z + X U)) (W + V))|^2 / L0 + ridge * (|U|^2 / |W_producer|^2 + |V|^2 / |W|^2),

with `z` the producer's present values and `L0` the present loss, by L-BFGS from zero corrections. It is accepted where
held-out rows agree. Layer-wise fits of this kind need no labels and no pass through the rest of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.calibration.columns import Positions, input_rows, output_rows, to_matrix
from onnxprune.graph.fitpoint import FitPoint
from onnxprune.graph.space import Layer
from onnxprune.graph.view import GraphView
from onnxprune.repair.ridge import Correction, Fit

_ITERATIONS = 20
_RIDGE = 0.1
_MEMORY = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """A producer whose values one consumer alone reads, through at most one ReLU or Clip."""

    producer: FitPoint
    consumer: FitPoint


@dataclass(frozen=True, slots=True)
class PairFit:
    """Rows of a pair.

    Attributes:
        inputs: `(groups, Q, K)` columns of the producer at the positions that the consumer's rows read.
        made: `(Q, C)` the producer's values at its fit point now.
        reads: `(R, kernel)` which of the Q rows each row of the consumer reads; Q itself stands for padding.
        fit: the consumer's rows; its `columns` are not used.
    """

    inputs: np.ndarray
    made: np.ndarray
    reads: np.ndarray
    fit: Fit


def find_pairs(points: Sequence[FitPoint], graph: GraphView) -> dict[str, Pair]:
    """Pairs by the producer's node."""
    by_input = {point.layer.input: point for point in points}
    pairs = {}
    for point in points:
        tensor = point.tensor
        readers = graph.consumers.get(tensor, ())
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and readers[0].input(0) == tensor:
            tensor = readers[0].output()
            readers = graph.consumers.get(tensor, ())
        elif np.isfinite(point.bounds).any():
            continue
        consumer = by_input.get(tensor)
        if consumer is None or len(readers) != 1 or {point.tensor, tensor} & {*graph.outputs}:
            continue
        if _fits(point.layer, consumer.layer):
            pairs[point.layer.node] = Pair(point, consumer)
    return pairs


def _fits(producer: Layer, consumer: Layer) -> bool:
    """Whether the consumer's columns are rows of the producer's output: both dense, or both convolutions."""
    if consumer.group != 1 or consumer.transposed or consumer.input_axis != producer.output_axis:
        return False
    return (producer.window is None) == (consumer.window is None)


def reading_positions(consumer: Layer, at: Positions, sizes: tuple[int, ...]) -> tuple[np.ndarray, Positions]:
    """Which positions of its input the consumer reads.

    Args:
        consumer: the layer.
        at: sampled positions of its output.
        sizes: of the input's axes other than channels.

    Returns:
        `(R, kernel)` indices into the positions returned (their number stands for padding), and these positions.
    """
    index = np.unravel_index(at.chosen, at.shape)
    if consumer.window is None:
        flat, inside = at.chosen[:, None], np.ones((len(at.chosen), 1), bool)
    else:
        window = consumer.window
        offsets = np.indices(window.kernel).reshape(len(window.kernel), -1)
        places = [
            index[a + 1][:, None] * window.strides[a] - window.pads[a] + offsets[a] * window.dilations[a]
            for a in range(len(window.kernel))
        ]
        inside = np.all([(p >= 0) & (p < n) for p, n in zip(places, sizes[1:], strict=True)], axis=0)
        clipped = [np.clip(p, 0, n - 1) for p, n in zip(places, sizes[1:], strict=True)]
        flat = np.ravel_multi_index((np.broadcast_to(index[0][:, None], inside.shape), *clipped), sizes)
    chosen, inverse = np.unique(flat[inside], return_inverse=True)
    reads = np.full(inside.shape, len(chosen))
    reads[inside] = inverse
    return reads, Positions(sizes, chosen)


def tile_positions(consumer: Layer, shape: tuple[int, ...], count: int, generator: np.random.Generator) -> Positions:
    """About `count` output positions in small tiles, whose neighbours share what they read.

    Args:
        consumer: the layer.
        shape: of its output's axes other than channels.
        count: how many; all where there are no more.
        generator: draws the tiles.
    """
    size = prod(shape)
    if consumer.window is None or size <= count:
        chosen = np.arange(size) if size <= count else np.sort(generator.choice(size, count, replace=False))
        return Positions(shape, chosen)
    side = tuple(min(4, n) for n in shape[1:])
    tiles = max(1, count // prod(side))
    corners = [generator.integers(0, shape[0], tiles)]
    corners += [generator.integers(0, n - s + 1, tiles) for n, s in zip(shape[1:], side, strict=True)]
    steps = np.indices(side).reshape(len(side), -1)
    places = [corners[a + 1][:, None] + steps[a] for a in range(len(side))]
    first = np.broadcast_to(corners[0][:, None], places[0].shape)
    return Positions(shape, np.unique(np.ravel_multi_index((first, *places), shape)))


def pair_rows(pair: Pair, values: dict[str, np.ndarray], target: np.ndarray, at: Positions) -> PairFit:
    """Rows of one batch.

    Args:
        pair: the two layers.
        values: present values of the producer's input and of both fit points.
        target: the original's values at the consumer's fit point.
        at: sampled positions of the consumer's output.
    """
    made = values[pair.producer.tensor]
    axis = pair.producer.layer.output_axis
    sizes = tuple(n for a, n in enumerate(made.shape) if a != axis)
    reads, places = reading_positions(pair.consumer.layer, at, sizes)
    fit = Fit(
        np.zeros((1, 0, 0), np.float32),
        output_rows(pair.consumer.layer, values[pair.consumer.tensor], at),
        output_rows(pair.consumer.layer, target, at),
        pair.consumer.slope,
        pair.consumer.bounds,
        has_bias=pair.consumer.bias is not None,
    )
    return PairFit(
        input_rows(pair.producer.layer, values[pair.producer.layer.input], places),
        output_rows(pair.producer.layer, made, places),
        reads,
        fit,
    )


def joined(parts: list[PairFit]) -> PairFit:
    """Rows of several batches as one."""
    starts = np.cumsum([0, *(len(part.made) for part in parts)])
    total = int(starts[-1])
    first = parts[0].fit
    return PairFit(
        np.concatenate([part.inputs for part in parts], axis=1),
        np.concatenate([part.made for part in parts]),
        np.concatenate(
            [
                np.where(part.reads == len(part.made), total, part.reads + start)
                for part, start in zip(parts, starts, strict=False)
            ]
        ),
        Fit(
            first.columns,
            np.concatenate([part.fit.current for part in parts]),
            np.concatenate([part.fit.target for part in parts]),
            first.slope,
            first.bounds,
            first.has_bias,
        ),
    )


class _Objective:
    """The loss of a pair and its gradient in the corrections, scaled by the weights' own size."""

    def __init__(self, pair: Pair, rows: PairFit, weights: tuple[np.ndarray, np.ndarray]) -> None:
        self._rows, self._fit = rows, rows.fit
        self._bounds = pair.producer.bounds
        kind = rows.made.dtype
        self._slopes = pair.producer.slope.astype(kind), pair.consumer.slope.astype(kind)
        first, second = to_matrix(pair.producer.layer, weights[0]), to_matrix(pair.consumer.layer, weights[1])[0]
        width = rows.made.shape[1]
        # One matrix (C, C_out) for each place of the kernel.
        kernel = second.reshape(width, -1, second.shape[1]).transpose(1, 0, 2) * pair.consumer.gain
        self._kernel = kernel.astype(kind)
        self.shapes = first.shape, (width,), kernel.shape, (second.shape[1],)
        scales = float(np.sqrt(np.mean(first**2))), float(np.sqrt(np.mean(kernel**2)))
        spread = float(np.std(rows.made)), float(np.std(rows.fit.target))
        biases = pair.producer.bias is not None, pair.consumer.bias is not None
        self._scales = scales[0], spread[0] * biases[0] * 0.1, scales[1], spread[1] * biases[1] * 0.1
        self._mean_square = 1.0
        self._constant = rows.fit.current - self._product(self._activated(rows.made), self._kernel)
        self._mean_square = max(self.loss(self.corrections(np.zeros(self.size))), 1e-30)

    @property
    def size(self) -> int:
        """Number of variables."""
        return sum(prod(shape) for shape in self.shapes)

    def corrections(self, x: np.ndarray) -> list[np.ndarray]:
        """The corrections that variables stand for."""
        parts = np.split(x, np.cumsum([prod(shape) for shape in self.shapes])[:-1])
        kind = self._rows.made.dtype
        return [
            (part.reshape(shape) * scale).astype(kind)
            for part, shape, scale in zip(parts, self.shapes, self._scales, strict=True)
        ]

    def _activated(self, made: np.ndarray) -> np.ndarray:
        """`(Q + 1, C)` values the consumer reads; the last row is padding."""
        low, high = self._bounds
        values = made if low == -np.inf and high == np.inf else np.clip(made, low, high)
        return np.concatenate([values, np.zeros((1, values.shape[1]), values.dtype)])

    def _product(self, seen: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        total = seen[self._rows.reads[:, 0]] @ kernel[0]
        for place in range(1, len(kernel)):
            total += seen[self._rows.reads[:, place]] @ kernel[place]
        return np.asarray(total * self._slopes[1])

    def _made(self, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        change = np.matmul(self._rows.inputs, weight).transpose(1, 0, 2).reshape(self._rows.made.shape)
        return np.asarray(self._rows.made + (change + bias) * self._slopes[0])

    def loss(self, corrections: list[np.ndarray]) -> float:
        """Mean squared residual, relative to that without corrections."""
        weight, bias, kernel, shift = corrections
        seen = self._activated(self._made(weight, bias))
        value = self._constant + self._product(seen, self._kernel + kernel) + shift * self._slopes[1]
        return float(np.mean(np.square(self._fit.residual(value)), dtype=np.float64)) / self._mean_square

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss with the ridge, and its gradient."""
        weight, bias, kernel, shift = self.corrections(x)
        made = self._made(weight, bias)
        seen, whole = self._activated(made), self._kernel + kernel
        value = self._constant + self._product(seen, whole) + shift * self._slopes[1]
        rest = self._fit.residual(value)
        loss = float(np.mean(np.square(rest), dtype=np.float64)) / self._mean_square
        back = rest * (self._slopes[1] * np.float32(-2.0 / (rest.size * self._mean_square)))
        d_seen = np.zeros_like(seen)
        d_kernel = np.empty_like(whole)
        for place in range(len(whole)):
            reads = self._rows.reads[:, place]  # all different, but for padding
            d_kernel[place] = seen[reads].T @ back
            d_seen[reads] += back @ whole[place].T
        low, high = self._bounds
        d_made = d_seen[:-1] * ((made > low) & (made < high)) * self._slopes[0]
        grouped = d_made.reshape(len(d_made), weight.shape[0], -1).transpose(1, 0, 2)
        d_weight = np.matmul(self._rows.inputs.transpose(0, 2, 1), grouped)
        parts = (d_weight, d_made.sum(axis=0), d_kernel, back.sum(axis=0))
        gradient = np.concatenate(
            [part.ravel().astype(np.float64) * scale for part, scale in zip(parts, self._scales, strict=True)]
        )
        ridge, pull = 0.0, np.zeros(self.size)
        start = 0
        for number, shape in enumerate(self.shapes):
            stop = start + prod(shape)
            if number % 2 == 0:
                ridge += _RIDGE * float(np.mean(np.square(x[start:stop])))
                pull[start:stop] = 2 * _RIDGE / prod(shape) * x[start:stop]
            start = stop
        return loss + ridge, gradient + pull


def fit_pair(
    pair: Pair, rows: PairFit, held_out: PairFit, weights: tuple[np.ndarray, np.ndarray]
) -> tuple[Correction, Correction] | None:
    """Corrections of producer and consumer; None where held-out rows do not get better.

    Args:
        pair: the two layers.
        rows: rows to fit.
        held_out: rows to judge by.
        weights: present weights of producer and consumer.
    """
    from scipy.optimize import minimize

    objective = _Objective(pair, rows, weights)
    start = np.zeros(objective.size)
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "maxcor": _MEMORY}
    ).x
    corrections = objective.corrections(found)
    if not _Objective(pair, held_out, weights).loss(corrections) < 1.0:
        return None
    weight, bias, kernel, shift = corrections
    second = kernel.transpose(1, 0, 2).reshape(1, -1, kernel.shape[2])
    return Correction(weight.astype(np.float64), bias.astype(np.float64)), Correction(
        second.astype(np.float64), shift.astype(np.float64)
    )
