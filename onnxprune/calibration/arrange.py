"""Rearranges the axes of a stored row into the layout the model takes (channels first or last, flattened or not)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from onnxprune.graph.inputs import Dim

_IMAGE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the axes of a stored row are rearranged: one axis is moved, then the row is reshaped.

    Attributes:
        move: source and target axis of the row, or None.
        shape: shape of the row, or None where it stays.
    """

    move: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None


def fits(shape: Sequence[int], dims: Sequence[Dim]) -> bool:
    """Whether a shape matches given dimensions; symbolic dimensions match any size."""
    return len(shape) == len(dims) and all(not isinstance(d, int) or s == d for s, d in zip(shape, dims, strict=True))


def arrange(stored: Sequence[int], wanted: Sequence[Dim] | None, layout: str) -> Arrangement | None:
    """Find how a row of shape `stored` becomes one of dimensions `wanted`; None where it cannot.

    In this order: as it is; channels moved from last to first or back (images of three axes); axes of size 1 added or
    dropped; flattened, or unflattened, in stored order. `layout` "nchw" or "nhwc" brings channels there first.
    """
    stored = tuple(stored)
    if wanted is None:
        return Arrangement()
    moves = _moves(stored, layout)
    for move in moves:
        if fits(_moved(stored, move), wanted):
            return Arrangement(move)
    first = moves[0] if layout != "auto" else None
    shape = _reshaped(_moved(stored, first), wanted)
    return None if shape is None else Arrangement(first, shape)


def channels_last(stored: Sequence[int]) -> bool:
    """Whether a row looks like an image with its channels last."""
    return len(stored) == 3 and stored[2] in _IMAGE_CHANNELS and stored[0] not in _IMAGE_CHANNELS


def channels_first(stored: Sequence[int]) -> bool:
    """Whether a row looks like an image with its channels first."""
    return len(stored) == 3 and stored[0] in _IMAGE_CHANNELS and stored[2] not in _IMAGE_CHANNELS


def _moves(stored: tuple[int, ...], layout: str) -> tuple[tuple[int, int] | None, ...]:
    if layout == "nchw":
        return ((2, 0) if channels_last(stored) else None,)
    if layout == "nhwc":
        return ((0, 2) if channels_first(stored) else None,)
    return (None, (2, 0), (0, 2)) if len(stored) == 3 else (None,)


def _moved(shape: tuple[int, ...], move: tuple[int, int] | None) -> tuple[int, ...]:
    if move is None:
        return shape
    rest = [size for axis, size in enumerate(shape) if axis != move[0]]
    rest.insert(move[1], shape[move[0]])
    return tuple(rest)


def _reshaped(stored: tuple[int, ...], wanted: Sequence[Dim]) -> tuple[int, ...] | None:
    dense = [size for size in stored if size != 1]
    places = [dim for dim in wanted if dim != 1]
    if fits(dense, places):
        sizes = iter(dense)
        return tuple(1 if dim == 1 else next(sizes) for dim in wanted)
    known = [dim for dim in wanted if isinstance(dim, int)]
    if len(known) == len(wanted) and prod(known) == prod(stored) and min(len(dense), len(places)) <= 1:
        return tuple(known)
    return None
