"""Converts stored rows to what a model takes: rearranges axes, scales values, casts types.

Integers for a floating-point input become `(x * scale - mean) / std`. Floating-point rows count as prepared and are
only cast, unless the user gives `mean`, `std` or `scale`: what is given is applied to any row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.arrange import Arrangement, channels_last
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.graph.inputs import InputSpec


@dataclass(frozen=True, slots=True)
class Conversion:
    """How the stored rows of one input are converted.

    Attributes:
        dtype: the model's type.
        arrangement: of axes.
        scale: factor, 1 where nothing is scaled.
        mean: subtracted after scaling; broadcasts against stored rows, or None.
        std: divided by; broadcasts against stored rows, or None.
        drop: whether a single row is given without its leading axis (it is a complete feed).
    """

    dtype: np.dtype
    arrangement: Arrangement
    scale: float
    mean: np.ndarray | None
    std: np.ndarray | None
    drop: bool

    @property
    def is_scaling(self) -> bool:
        """Whether values are scaled, and not only rearranged and cast."""
        return self.scale != 1 or self.mean is not None or self.std is not None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Convert rows: `(rows, ...)` as stored to `(rows, ...)` as the model takes them.

        With `drop`, the leading axis of the single row is removed.
        """
        if self.is_scaling:
            rows = rows.astype(np.float64 if self.dtype == np.float64 else np.float32)
            rows *= self.scale
            if self.mean is not None:
                rows -= self.mean.astype(rows.dtype)
            if self.std is not None:
                rows /= self.std.astype(rows.dtype)
        if self.arrangement.move is not None:
            source, target = self.arrangement.move
            rows = np.moveaxis(rows, source + 1, target + 1)
        if self.arrangement.shape is not None:
            rows = rows.reshape(len(rows), *self.arrangement.shape)
        # Not ascontiguousarray: it makes scalars one-dimensional.
        rows = np.asarray(rows, dtype=self.dtype, order="C")
        return rows.reshape(rows.shape[1:]) if self.drop else rows


@dataclass(frozen=True, slots=True)
class Converter:
    """The conversions of all inputs; used as `Dataset.convert`."""

    conversions: Mapping[str, Conversion]

    def __call__(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Convert the rows of one input."""
        return self.conversions[name](rows)


def conversion(
    spec: InputSpec,
    stored: Sequence[int],
    dtype: np.dtype,
    arrangement: Arrangement,
    preprocess: PreprocessConfig | None,
    *,
    drop: bool = False,
) -> Conversion:
    """Choose the conversion of one input from its type, the stored rows and the options.

    Args:
        spec: the input.
        stored: shape of a stored row.
        dtype: type of the stored rows.
        arrangement: how rows are arranged.
        preprocess: scaling options; None for an input that they do not concern.
        drop: whether rows are complete feeds.

    Raises:
        InputError: the types do not go together, or mean and std do not fit the rows.
    """
    _check_types(spec, dtype)
    if preprocess is None or not (preprocess.mean or preprocess.std or preprocess.scale is not None):
        return Conversion(spec.dtype, arrangement, 1.0, None, None, drop)
    if not spec.is_float:
        raise InputError(f"input {spec} takes no scaled values; leave out mean, std and scale")
    if any(value == 0 or not np.isfinite(value) for value in preprocess.std):
        raise InputError(f"std {preprocess.std} must hold numbers other than 0")
    default = 1 / 255 if (preprocess.mean or preprocess.std) and dtype.kind in "iu" else 1.0
    chosen = Conversion(
        dtype=spec.dtype,
        arrangement=arrangement,
        scale=default if preprocess.scale is None else preprocess.scale,
        mean=_per_channel("mean", preprocess.mean, stored, arrangement, preprocess.layout),
        std=_per_channel("std", preprocess.std, stored, arrangement, preprocess.layout),
        drop=drop,
    )
    if preprocess.scale is None and default != 1 and max(preprocess.mean, default=0.0) > 1:
        raise InputError(
            f"integer images are divided by 255 before the mean {max(preprocess.mean):g} is subtracted; give --scale 1 "
            "(scale=1) where mean and std are meant for values of 0 to 255"
        )
    return chosen


def _check_types(spec: InputSpec, dtype: np.dtype) -> None:
    is_float = dtype.kind == "f" or "float" in dtype.name
    if spec.is_text:
        accepted = dtype.kind in "USO"
    elif spec.is_float:
        accepted = is_float or dtype.kind in "iub"
    elif spec.dtype.kind == "c":
        accepted = is_float or dtype.kind in "iubc"
    else:
        accepted = not is_float and dtype.kind in "iub"
    if not accepted:
        raise InputError(f"the model's input {spec} cannot take {dtype.name} data; store it in the model's type")


def _per_channel(
    option: str, values: tuple[float, ...], stored: Sequence[int], arrangement: Arrangement, layout: str
) -> np.ndarray | None:
    """The values of `mean` or `std`, shaped to broadcast against stored rows `(rows, ...)`."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    if len(values) == 1:
        return array
    axes = [0, len(stored) - 1] if stored else []
    if arrangement.move == (2, 0) or layout == "nhwc" or channels_last(stored):
        axes.reverse()
    axis = next((axis for axis in axes if stored[axis] == len(values)), None)
    if axis is None:
        raise InputError(f"{option} has {len(values)} values, but no outer axis of rows {list(stored)} has that size")
    return array.reshape([len(values) if a == axis else 1 for a in range(len(stored))])
