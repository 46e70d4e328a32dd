"""Writes a layer as a matrix product: input columns (im2col) and outputs at sampled positions, weight as a matrix.

`output[r, group, :] = rows[group, r, :] @ matrix[group]` for every layer, convolutions as im2col. Positions are drawn
at random where there are more than needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.ops.window import Window
from onnxprune.structure.units import Layer

Weights = Callable[[tuple[int, ...]], "np.ndarray | None"]
"""From the shape of positions to a weight for each, in order; None where all count alike."""


def _alike(shape: tuple[int, ...]) -> None:
    """All positions count alike."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How positions of a batch are drawn.

    Attributes:
        real: which are no padding, as weights of 0 and 1; the others are never drawn.
        focus: how much each counts; half of the positions are drawn in proportion to it.
    """

    real: Weights = _alike
    focus: Weights = _alike

    def weights(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """The focus on real positions; None where all of them count alike."""
        weights, real = self.focus(shape), self.real(shape)
        return weights if weights is None or real is None else weights * real

    def able(self, shape: tuple[int, ...]) -> np.ndarray:
        """The positions that may be drawn, ascending."""
        real = self.real(shape)
        return np.arange(prod(shape)) if real is None else np.flatnonzero(real)


EVEN = Drawing()
"""All positions alike."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Sampled positions of a layer's output: `(P,)` indices into the flattened axes other than the channel axis."""

    shape: tuple[int, ...]
    chosen: np.ndarray


def positions(
    layer: Layer,
    output_shape: tuple[int, ...],
    count: int,
    generator: np.random.Generator,
    drawing: Drawing = EVEN,
) -> Positions:
    """Draw `count` random positions of a layer's output; all of them where there are fewer.

    Args:
        layer: the layer.
        output_shape: shape of its output.
        count: how many.
        generator: draws them.
        drawing: which may be drawn, and which are drawn more often.
    """
    shape = tuple(n for a, n in enumerate(output_shape) if a != layer.output_axis)
    weighted, able = drawing.weights(shape), drawing.able(shape)
    if weighted is None:
        return Positions(shape, _evenly(able, count, generator))
    even = _evenly(able, count - count // 2, generator)
    return Positions(shape, np.sort(np.concatenate([even, drawn(weighted, count // 2, generator)])))


def _evenly(able: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    return able if len(able) <= count else able[np.sort(generator.choice(len(able), count, replace=False))]


def drawn(weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Positions in proportion to weights, each at most once; fewer than `count` where fewer have a weight.

    The largest of `log(u) / w`, `u` uniform in (0, 1], are a weighted sample without replacement (Efraimidis and
    Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    able = np.flatnonzero(weights > 0)
    keys = np.log(1.0 - generator.random(len(able))) / weights[able]
    if len(able) <= count:
        return able
    return able[np.argpartition(keys, -count)[-count:]] if count else able[:0]


def output_rows(layer: Layer, output: np.ndarray, at: Positions) -> np.ndarray:
    """`(P, C_out)` the values of a tensor, shaped like the layer's output, at the positions."""
    moved = np.moveaxis(output, layer.output_axis, -1)
    return _single(moved[np.unravel_index(at.chosen, at.shape)])


def input_rows(layer: Layer, source: np.ndarray, at: Positions) -> np.ndarray:
    """`(groups, P, K)` the inputs that the weight multiplies at the positions (im2col).

    K runs over input channels, then over the kernel.
    """
    if layer.window is None:
        moved = np.moveaxis(source, layer.input_axis, -1)
        return _single(moved.reshape(-1, moved.shape[-1])[at.chosen])[None]
    window = layer.window
    n = len(window.kernel)
    strides, pads = window.strides, window.pads
    if layer.transposed:
        source, strides, pads = _stretched(source, layer, at.shape[1:])
    around = [(max(0, pads[a]), max(0, pads[a + n])) for a in range(n)]
    padded = np.pad(source, ((0, 0), (0, 0), *around)) if np.any(around) else source
    crop = tuple(slice(max(0, -pads[a]), padded.shape[a + 2] - max(0, -pads[a + n])) for a in range(n))
    padded = padded[(slice(None), slice(None), *crop)]
    index = np.unravel_index(at.chosen, at.shape)
    channels = padded.shape[1]
    places = tuple(
        index[a + 1].reshape(-1, *(1,) * n) * strides[a]
        + (np.arange(window.kernel[a]) * window.dilations[a]).reshape(*(1,) * a, -1, *(1,) * (n - 1 - a))
        for a in range(n)
    )
    rows = index[0].reshape(-1, *(1,) * n)
    last = np.moveaxis(padded, 1, -1)
    if 4 * len(at.chosen) * prod(window.kernel) > padded.size // channels:
        last = np.ascontiguousarray(last)  # every gathered piece is contiguous then
    gathered = last[(rows, *places)].reshape(len(at.chosen), prod(window.kernel), layer.group, channels // layer.group)
    return _single(np.ascontiguousarray(gathered.transpose(2, 0, 3, 1)).reshape(layer.group, len(at.chosen), -1))


def window_of(layer: Layer) -> Window:
    """The window of a convolution; of a transposed one, that in its input with zeros inserted between positions."""
    window = layer.window
    assert window is not None
    if not layer.transposed:
        return window
    n = len(window.kernel)
    spans = [(k - 1) * d for k, d in zip(window.kernel, window.dilations, strict=True)]
    begins = [span - pad for span, pad in zip(spans, window.pads, strict=False)]
    return Window(window.kernel, (1,) * n, (*begins, *begins), window.dilations)


def patches(
    layer: Layer,
    source: np.ndarray,
    rows: np.ndarray,
    corners: Sequence[np.ndarray],
    places: np.ndarray,
    sizes: tuple[int, ...],
) -> np.ndarray:
    """`(T, N, channels)` inputs of a convolution around some positions, 0 where these lie in padding.

    Args:
        layer: the convolution.
        source: its input.
        rows: `(T, 1)` rows of the batch.
        corners: for each spatial axis, `(T, 1)` positions of the output.
        places: `(axes, N)` positions in the input, relative to where the window of a corner begins; see `window_of`.
        sizes: of the output's spatial axes.
    """
    window = window_of(layer)
    if layer.transposed:
        source = _stretched(source, layer, sizes)[0]
    n = len(corners)
    at = [corners[a] * window.strides[a] - window.pads[a] + places[a] for a in range(n)]
    inside = np.all([(p >= 0) & (p < size) for p, size in zip(at, source.shape[2:], strict=True)], axis=0)
    clipped = [np.clip(p, 0, size - 1) for p, size in zip(at, source.shape[2:], strict=True)]
    last = np.moveaxis(source, 1, -1)
    if 4 * inside.size > last.size // last.shape[-1]:
        last = np.ascontiguousarray(last)  # every gathered piece is contiguous then
    gathered = _single(last[(np.broadcast_to(rows, inside.shape), *clipped)])
    return gathered if inside.all() else np.where(inside[..., None], gathered, gathered.dtype.type(0))


def _single(values: np.ndarray) -> np.ndarray:
    """The array with half precision converted to float32."""
    return np.asarray(values, dtype=values.dtype if values.dtype in (np.float32, np.float64) else np.float32)


def _stretched(
    source: np.ndarray, layer: Layer, sizes: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """ConvTranspose as a convolution: the input with zeros inserted between positions, and the pads to use."""
    window = layer.window
    assert window is not None
    n = len(window.kernel)
    stretched = np.zeros(
        (*source.shape[:2], *((size - 1) * s + 1 for size, s in zip(source.shape[2:], window.strides, strict=True))),
        source.dtype,
    )
    stretched[(slice(None), slice(None), *(slice(None, None, s) for s in window.strides))] = source
    spans = [(k - 1) * d for k, d in zip(window.kernel, window.dilations, strict=True)]
    begins = window_of(layer).pads[:n]
    ends = [sizes[a] + spans[a] - stretched.shape[a + 2] - begins[a] for a in range(n)]
    return stretched, (1,) * n, (*begins, *ends)


def to_matrix(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The weight as a float64 matrix `(groups, K, C_out / groups)`."""
    return as_matrix(layer, np.asarray(weight, dtype=np.float64))


def as_matrix(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The weight as a matrix like `to_matrix`, in its own type and if possible without copying."""
    if layer.window is None:
        return (weight if layer.in_axis == 0 else weight.T)[None]
    if layer.transposed:
        flipped = weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in layer.window.kernel))]
        grouped = flipped.reshape(layer.group, -1, *flipped.shape[1:])
        return np.moveaxis(grouped, 2, -1).reshape(layer.group, -1, weight.shape[1])
    return weight.reshape(layer.group, weight.shape[0] // layer.group, -1).transpose(0, 2, 1)


def from_matrix(layer: Layer, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The weight that a matrix of `to_matrix` stands for, in the shape and type of `like`."""
    if layer.window is None:
        weight = matrix[0] if layer.in_axis == 0 else matrix[0].T
    elif layer.transposed:
        grouped = matrix.reshape(layer.group, like.shape[0] // layer.group, *like.shape[2:], like.shape[1])
        weight = np.moveaxis(grouped, -1, 2).reshape(like.shape)
        weight = weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in layer.window.kernel))]
    else:
        weight = matrix.transpose(0, 2, 1)
    return np.asarray(weight.reshape(like.shape), dtype=like.dtype, order="C")


def column_positions(layer: Layer, channels: np.ndarray) -> np.ndarray:
    """`(n * kernel,)` indices of the K columns that belong to given input channels of a group."""
    kernel = prod(layer.window.kernel) if layer.window else 1
    return (np.asarray(channels)[:, None] * kernel + np.arange(kernel)).reshape(-1)
