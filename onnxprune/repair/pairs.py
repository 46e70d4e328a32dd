"""Finds pairs of consecutive layers around a pruned group, and samples the rows that they are fitted to.

Rows come in small tiles of the consumer's output, whose neighbours share what they read: a convolution behind another
needs the producer's values at a window around each position, and a tile of 4 by 4 reads far fewer than 16 windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.calibration.layer_matrix import EVEN, Drawing, Positions, input_rows, output_rows, patches, window_of
from onnxprune.ops.window import Window
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.between import Between, between
from onnxprune.structure.fit_targets import FitTarget
from onnxprune.structure.units import Layer

_SIDE = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers that are refitted together: only the consumer reads the producer, maybe through an activation.

    Attributes:
        producer: the first layer's fit target.
        consumer: the second layer's.
        between: what is between them.
    """

    producer: FitTarget
    consumer: FitTarget
    between: Between


@dataclass(frozen=True, slots=True)
class RowTile:
    """What a tile of a consumer's output reads, relative to the tile's first position.

    Attributes:
        steps: `(axes, S)` positions of the tile's outputs.
        places: `(axes, Q)` positions of the consumer's input that they read.
        reads: `(S, kernel)` which of the Q each output reads.
        made: `(axes, P)` positions of the producer's output that these are made of: the same but for a pooling.
        windows: `(Q, window)` which of the P each place is made of; None without a pooling.
        sources: `(axes, N)` positions of the producer's input that the P are made of.
        columns: `(P, kernel)` which of the N each of them reads.
    """

    steps: np.ndarray
    places: np.ndarray
    reads: np.ndarray
    made: np.ndarray
    windows: np.ndarray | None
    sources: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, slots=True)
class PairFit:
    """Data to fit a pair: T tiles of S consumer outputs each, which read Q values, made of P of the producer.

    Attributes:
        inputs: `(T, N, channels)` what the producer reads.
        made: `(T, P, C)` the producer's values at its fit target now.
        exists: `(T, P)` False where a pooling reads padding.
        inside: `(T, Q)` False where a tile reads padding.
        tile: which values the outputs of a tile read.
        current: `(T, S, C_out)` values at the consumer's fit target now.
        target: `(T, S, C_out)` values that the original has there.
    """

    inputs: np.ndarray
    made: np.ndarray
    exists: np.ndarray
    inside: np.ndarray
    tile: RowTile
    current: np.ndarray
    target: np.ndarray

    def part(self, tiles: slice | np.ndarray) -> "PairFit":
        """A selection of the tiles (a slice shares the memory)."""
        made, exists, inside, current, target, inputs = (
            array[tiles] if isinstance(tiles, slice) else array.take(tiles, axis=0)
            for array in (self.made, self.exists, self.inside, self.current, self.target, self.inputs)
        )
        return PairFit(inputs, made, exists, inside, self.tile, current, target)


def find_pairs(points: Sequence[FitTarget], analysis: Analysis) -> dict[str, Pair]:
    """Pairs of layers that can be refitted together, by the producer's node name.

    Args:
        points: fit targets of the layers that may be.
        analysis: of their model.
    """
    by_tensor = {point.tensor: point for point in points}
    graph, pairs = analysis.graph, {}
    for consumer in points:
        read = consumer.layer.input
        if graph.reads(read) != 1 or read in graph.outputs or analysis.value(read) is not None:
            continue
        middle = between(analysis, read, consumer.layer.input_axis, by_tensor)
        if middle is not None and _fits(by_tensor[middle.source].layer, consumer.layer):
            producer = by_tensor[middle.source]
            pairs[producer.layer.node] = Pair(producer, consumer, middle)
    return pairs


def _fits(producer: Layer, consumer: Layer) -> bool:
    """Whether two layers can form a pair: both dense or both convolutions, along the same channel axis."""
    if consumer.group != 1 or consumer.transposed or consumer.input_axis != producer.output_axis:
        return False
    return (producer.window is None) == (consumer.window is None)


def tile_of(pair: Pair, sizes: tuple[int, ...]) -> RowTile:
    """The tile of a pair whose consumer's output has these spatial sizes; one row where the layers are dense."""
    window = pair.consumer.layer.window
    if window is None:
        at, itself = np.zeros((0, 1), int), np.zeros((1, 1), int)
        return RowTile(at, at, itself, at, None, at, itself)
    side = tuple(min(_SIDE, n) for n in sizes)
    steps = np.indices(side).reshape(len(side), -1)
    places, reads = _read(steps, window)
    pooling = pair.between.pooling
    made, windows = (places, None) if pooling is None else _read(places, pooling.window)
    sources, columns = _read(made, window_of(pair.producer.layer))
    return RowTile(steps, places, reads, made, windows, sources, columns)


def _read(places: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The `(axes, Q)` positions that windows at some places read, and which of these `(places, window)` each does."""
    offsets = np.indices(window.kernel).reshape(len(window.kernel), -1)
    strides, dilations = np.array(window.strides)[:, None], np.array(window.dilations)[:, None]
    wanted = (places * strides)[:, :, None] + (offsets * dilations)[:, None, :]
    read, which = np.unique(wanted.reshape(len(places), -1), axis=1, return_inverse=True)
    return read, which.reshape(places.shape[1], offsets.shape[1])


def pair_rows(
    pair: Pair,
    values: Mapping[str, np.ndarray],
    target: np.ndarray,
    count: int,
    generator: np.random.Generator,
    drawing: Drawing = EVEN,
) -> PairFit:
    """Sample tiles of one batch.

    Args:
        pair: the two layers.
        values: present values of what `read_by` says.
        target: the original's values at the consumer's fit target.
        count: about how many rows; dense layers have no more than there are.
        generator: draws the tiles.
        drawing: which positions may be drawn (of dense layers).
    """
    producer, consumer, made = pair.producer.layer, pair.consumer.layer, values[pair.producer.tensor]
    shape = tuple(n for a, n in enumerate(target.shape) if a != consumer.output_axis)
    sizes = tuple(n for a, n in enumerate(made.shape) if a != producer.output_axis)
    window, pooling, source = consumer.window, pair.between.pooling, values[producer.input]
    tile = tile_of(pair, shape[1:])
    if window is None:
        able = drawing.able(shape)
        chosen = np.sort(generator.choice(able, min(count, len(able)), replace=False))
        outputs = read = chosen[:, None]
        exists = inside = np.ones(read.shape, bool)
        inputs = input_rows(producer, source, Positions(sizes, chosen)).swapaxes(0, 1)
    else:
        tiles = max(1, min(count, prod(shape)) // tile.steps.shape[1])
        rows = generator.integers(0, shape[0], tiles)[:, None]
        spans = tile.steps.max(axis=1)
        corners = [generator.integers(0, n - s, tiles)[:, None] for n, s in zip(shape[1:], spans, strict=True)]
        axes = range(len(corners))
        outputs = np.ravel_multi_index(_indices(rows, [corners[a] + tile.steps[a] for a in axes]), shape)
        corners = [corners[a] * window.strides[a] - window.pads[a] for a in axes]
        exists = inside = _within(corners, tile.places, values[consumer.input].shape[2:])
        if pooling is not None:
            strides, pads = pooling.window.strides, pooling.window.pads
            corners = [corners[a] * strides[a] - pads[a] for a in axes]
            exists = _within(corners, tile.made, sizes[1:])
        clipped = [np.clip(corners[a] + tile.made[a], 0, sizes[a + 1] - 1) for a in axes]
        read = np.ravel_multi_index(_indices(rows, clipped), sizes)
        inputs = patches(producer, source, rows, corners, tile.sources, sizes[1:])
    at, sources = Positions(shape, outputs.ravel()), Positions(sizes, read.ravel())
    return PairFit(
        inputs,
        output_rows(producer, made, sources).reshape(*read.shape, -1),
        exists,
        inside,
        tile,
        output_rows(consumer, values[pair.consumer.tensor], at).reshape(*outputs.shape, -1),
        output_rows(consumer, target, at).reshape(*outputs.shape, -1),
    )


def _indices(rows: np.ndarray, places: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    return (np.broadcast_to(rows, places[0].shape), *places)


def _within(corners: Sequence[np.ndarray], places: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """`(T, places)` whether places relative to the tiles' corners lie inside."""
    at = [corner + place for corner, place in zip(corners, places, strict=True)]
    return np.asarray(np.all([(p >= 0) & (p < n) for p, n in zip(at, sizes, strict=True)], axis=0))


def read_by(pair: Pair) -> tuple[str, ...]:
    """Names of the tensors that `pair_rows` reads."""
    return (pair.producer.layer.input, pair.producer.tensor, pair.consumer.layer.input, pair.consumer.tensor)


def joined(parts: list[PairFit]) -> PairFit:
    """Join the tiles of several batches. Empties the list, so that no array is held twice."""
    inputs, made, exists, inside, current, target = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("inputs", "made", "exists", "inside", "current", "target")
    )
    tile = parts[0].tile
    parts.clear()
    return PairFit(inputs, made, exists, inside, tile, current, target)


def rows_in(pair: Pair, channels: int, shape: tuple[int, ...], memory: int) -> int:
    """How many rows of a pair fit into the given memory.

    Args:
        pair: the two layers.
        channels: of the producer's input.
        shape: of the consumer's output.
        memory: in bytes.
    """
    consumer = pair.consumer.layer
    tile = tile_of(pair, tuple(n for a, n in enumerate(shape) if a != consumer.output_axis)[1:])
    numbers = tile.sources.shape[1] * channels + tile.made.shape[1] * len(pair.producer.slope)
    return int(memory / 4 / (numbers / tile.steps.shape[1] + 2 * len(pair.consumer.slope)))
