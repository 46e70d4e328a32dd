"""Whether rows look prepared already, or like bytes that nothing prepares: what `mean`, `std` and `scale` do to them.

An image before it is prepared has no values below 0. So floats below 0 were prepared already; to prepare them once more
gives inputs that the model never saw, and nothing fails.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from onnxprune.calibration.convert import Conversion, Converter
from onnxprune.calibration.dataset import Dataset

_ROWS = 32  # that are looked at, or fewer large ones
_ELEMENTS = 1 << 22  # in all
IMAGE_AXES = 3
"""Axes of a row from which on it is an image."""

_SMALL = 64  # scales of at most one by so much are meant for bytes
_UNIT = 1.0
_BYTES = 255
_NO_CLASSES = 16  # whole numbers beyond this are bytes; smaller ones may be levels or counts
_WHOLE = 1e-3  # how far a whole number may be off: rounding of x / 255 * 255
_LARGE = 64  # numbers of an image beyond this are of 0 to 255, whole or not (resized images are not)
_IMAGE_VALUES = 64  # of a row that may be an image laid flat
_CENTRED = 0.5  # mean of rows that are standardised, at most
_SPREAD = (0.5, 2.0)  # of such rows

_RAW_NOTE = (
    "integer images are fed as they are, 0 to 255; give --scale, --mean or --std where the model wants them scaled"
)
_RAW_FLOATS_NOTE = (
    "images of 0 to 255, stored as floats, are fed as they are; give --scale 0.0039216 (1/255), with "
    "--mean and --std as in training, where the model wants them scaled"
)


@dataclass(frozen=True, slots=True)
class Values:
    """What the numbers of some rows are like."""

    low: float
    high: float
    mean: float
    spread: float

    def away(self, other: "Values") -> float:
        """How far these numbers lie from others, in places and in width; 0 where both are alike."""
        wide, wide_there = max(self.spread, 1e-12), max(other.spread, 1e-12)
        return abs(self.mean - other.mean) / wide_there + abs(log(wide / wide_there))

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def stored_values(data: Dataset, name: str) -> Values:
    """What some stored rows of an input are like."""
    return _values(_stored(data, name))


def converted_values(data: Dataset, name: str) -> Values:
    """What some rows of an input are like as the model takes them."""
    return _values(np.concatenate([data.convert(name, row[None]).ravel() for row in _stored(data, name)]))


def scaling(data: Dataset, name: str) -> Conversion | None:
    """The conversion of an input's rows where it changes their values; None where it does not."""
    made = data.convert.conversions.get(name) if isinstance(data.convert, Converter) else None
    return made if made is not None and made.is_scaling else None


def is_image(data: Dataset, name: str) -> bool:
    """Whether the rows of an input have the axes of images."""
    return data.arrays[name].ndim > IMAGE_AXES


def data_notes(data: Dataset, name: str, *, scale_given: bool) -> tuple[str, ...]:
    """A note where rows of 0 to 255 are fed as they are.

    Args:
        data: the rows.
        name: of an input that takes floating-point numbers.
        scale_given: whether the user said how to scale them.
    """
    if scale_given or scaling(data, name) is not None:
        return ()
    stored = data.arrays[name]
    if stored.dtype == np.uint8:
        return (_RAW_NOTE,)
    return (_RAW_FLOATS_NOTE,) if _are_bytes(data, name) else ()


def data_warnings(data: Dataset, name: str) -> tuple[str, ...]:
    """A warning where floats that look prepared are prepared again, or bytes stored as floats as if they were not."""
    made = scaling(data, name)
    if made is None or data.arrays[name].dtype.kind != "f":
        return ()
    stored = stored_values(data, name)
    told = f"{data.source}: input {name!r} is stored as floats of {stored}"
    if _looks_prepared(stored, made, image=is_image(data, name)):
        return (
            f"{told}, which look prepared already, and --mean, --std and --scale prepare them once more (to "
            f"{converted_values(data, name)}): leave these options out unless the rows need them",
        )
    if made.scale == 1 and _are_bytes(data, name) and (made.mean is None or made.mean.max() <= _UNIT):
        return (f"{told}, which are not divided by 255 before --mean and --std: give --scale 0.0039216 (1/255)",)
    return ()


def _looks_prepared(stored: Values, made: Conversion, *, image: bool) -> bool:
    if max(abs(stored.low), abs(stored.high)) <= _UNIT and made.scale <= 1 / _SMALL:
        return True
    standard = abs(stored.mean) < _CENTRED and _SPREAD[0] < stored.spread < _SPREAD[1]
    return stored.low < 0 and (image or standard)


def _are_bytes(data: Dataset, name: str) -> bool:
    """Whether floats are those of images before these are prepared: up to 255, and whole, or large in an image."""
    rows = _stored(data, name)
    if rows.dtype.kind != "f" or rows[:1].size < _IMAGE_VALUES:
        return False
    if not (rows.min() >= 0 and _NO_CLASSES < rows.max() <= _BYTES):
        return False
    return bool((is_image(data, name) and rows.max() > _LARGE) or np.abs(rows - np.rint(rows)).max() <= _WHOLE)


def _stored(data: Dataset, name: str) -> np.ndarray:
    stored = data.arrays[name]
    count = max(1, min(_ROWS, _ELEMENTS // max(1, stored[:1].size)))
    return np.asarray(stored[data.rows[:count]])


def _values(array: np.ndarray) -> Values:
    if not array.size:
        return Values(0.0, 0.0, 0.0, 0.0)
    numbers = array.astype(np.float64)
    return Values(float(numbers.min()), float(numbers.max()), float(numbers.mean()), float(numbers.std()))
