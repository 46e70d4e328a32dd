"""Compares the scale of calibration and evaluation rows: bytes of 0 to 255 beside prepared numbers are one mistake."""

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import MADE_UP
from onnxprune.core.errors import InputError

_ROWS = 32
_APART = 40  # ratio of the largest values
_IMAGE_AXES = 3  # of a row


def check_same_scale(calibration: Dataset | None, evaluation: Dataset | None) -> None:
    """Refuse images of two scales for one model: the figures would be of inputs that it never learnt.

    Numbers that are no images may have values of any size; they are looked at where one set is stored as integers and
    the other is not. Made-up numbers are of no scale, which their own note tells.

    Raises:
        InputError: the largest values differ by a factor of 40 or more.
    """
    if (
        calibration is None
        or evaluation is None
        or not MADE_UP.keys().isdisjoint((calibration.source, evaluation.source))
    ):
        return
    for name, stored in calibration.arrays.items():
        other = evaluation.arrays.get(name)
        if other is None or stored.dtype.kind not in "iuf" or other.dtype.kind not in "iuf":
            continue
        if stored.ndim <= _IMAGE_AXES and (stored.dtype.kind == "f") == (other.dtype.kind == "f"):
            continue
        ranges = [_range(data, name) for data in (calibration, evaluation)]
        sizes = sorted(max(abs(low), abs(high)) for low, high in ranges)
        if sizes[0] and sizes[1] >= _APART * sizes[0]:
            told = [
                f"of {low:.3g} to {high:.3g} in {data.source}"
                for (low, high), data in zip(ranges, (calibration, evaluation), strict=True)
            ]
            raise InputError(
                f"input {name!r} has values {told[0]} and {told[1]}: the model takes one scale; store both alike, or "
                "integers in both with --scale, --mean and --std as in training"
            )


def _range(data: Dataset, name: str) -> tuple[float, float]:
    """Least and largest value among some rows, as the model takes them."""
    first = data.take(range(min(len(data), _ROWS)))
    values = [np.asarray(feed[name]) for feed in first.batches(_ROWS)]
    return float(min(value.min() for value in values)), float(max(value.max() for value in values))
