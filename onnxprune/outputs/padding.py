"""Which positions of a sequence are padding: a mask among the inputs says so, and the model does not look at them.

Exporters spell masks in many ways, some take lengths, so the model is asked: where the positions that a mask leaves
out get other values and nothing else changes, they are padding. Weights need not be fitted to what stands there, and
outputs there mean nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import collect
from onnxprune.core.engine import Engine
from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.outputs.meaning import Meaning, Outputs

_PROBED = 8  # rows that the model is tried on
_NEAR = 1e-4  # of the largest output: what counts as no change


def real_positions(model: Model, meaning: Meaning, data: Dataset, engine: Engine) -> np.ndarray | None:
    """Find out which positions of each row are not padding.

    Args:
        model: the original.
        meaning: of its outputs.
        data: the rows.
        engine: what the model is tried on.

    Returns:
        `(rows, positions)`, True where a row has something to say; None where no input is a mask, or where no row has
        padding.
    """
    if data.whole or not len(data):
        return None
    for name, real in _masks(data):
        padded = np.flatnonzero(~real.all(axis=1))[:_PROBED]
        others = _others(data, name, real.shape)
        if len(padded) and others and not _is_read(model, meaning, data.take(padded), real[padded], others, engine):
            return real
    return None


def _masks(data: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Inputs that may say what is real, with what they would leave over, `(rows, positions)`.

    They hold two values (0 and 1, False and True, -10000 and 0), for each position or for each pair of a position that
    looks and one that is seen; or they hold the number of positions of each row.
    """
    for name, stored in data.arrays.items():
        values = stored[data.rows]
        if not values.size:  # a cache before its first step
            continue
        if values.ndim == 1 or values.shape[1:] == (1,):
            yield from ((name, real) for real in _by_length(values.ravel(), data, name))
        elif values.ndim in (2, 3, 4) and values.shape[-1] > 1:
            low, high = values.min(), values.max()
            if low != high and ((values == low) | (values == high)).all():
                for real in (values == high, values == low):
                    seen = real.any(axis=tuple(range(1, real.ndim - 1)))
                    if seen.any(axis=1).all() and not seen.all():
                        yield name, seen


def _by_length(lengths: np.ndarray, data: Dataset, name: str) -> Iterator[np.ndarray]:
    """What lengths leave over of other inputs with so many positions and more."""
    sizes = {stored.shape[1] for other, stored in data.arrays.items() if other != name and stored.ndim > 1}
    if lengths.dtype.kind in "iu" and lengths.min() >= 1:
        for size in sorted(sizes):
            if lengths.max() <= size and lengths.min() < size:
                yield np.arange(size) < lengths[:, None]


def _others(data: Dataset, mask: str, shape: tuple[int, ...]) -> list[str]:
    """The other inputs with something at each of the positions."""
    return [
        name for name, stored in data.arrays.items() if name != mask and (len(data), *stored.shape[1:2]) == tuple(shape)
    ]


def _is_read(
    model: Model, meaning: Meaning, data: Dataset, real: np.ndarray, names: Sequence[str], engine: Engine
) -> bool:
    """Whether the model's outputs depend on what stands at positions that a mask leaves out."""
    rows = data.alone()
    first = real.argmax(axis=1)
    arrays, changed = {**rows.arrays}, False
    for name in names:
        values = arrays[name].copy()
        there = np.broadcast_to(values[np.arange(len(first)), first][:, None], values.shape)
        # Something else than what stands there: the row's first real value is seldom what pads.
        values[~real] = there[~real]
        changed |= not np.array_equal(values, arrays[name])
        arrays[name] = values
    if not changed:
        return True
    try:
        before, after = (_outputs(model, meaning, some, engine) for some in (rows, replace(rows, arrays=arrays)))
    except ModelError:
        return True
    return not all(_same(before[name], after[name], real) for name in meaning.outputs)


def _outputs(model: Model, meaning: Meaning, data: Dataset, engine: Engine) -> Outputs:
    return collect(model, data, meaning.outputs, engine=engine, row_axes=meaning.row_axes)


def _same(before: np.ndarray, after: np.ndarray, real: np.ndarray) -> bool:
    """Whether outputs are the same at real positions; of attention's maps, where real ones look."""
    along = next((axis for axis, size in enumerate(before.shape) if axis and size == real.shape[1]), None)
    if along is not None:
        before, after = (np.moveaxis(array, along, 1)[real] for array in (before, after))
    difference = np.abs(before.astype(np.float64) - after).max(initial=0.0)
    return bool(difference <= _NEAR * np.abs(before).max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Padding:
    """The real positions of all rows, by batch.

    Attributes:
        real: `(rows, positions)`.
        starts: the first row of each batch.
    """

    real: np.ndarray
    starts: tuple[int, ...]

    def of_batch(self, index: int) -> partial[np.ndarray | None]:
        """From the shape of a batch's positions to which are real, in order; None where a map has other positions."""
        return partial(self._real, self.real[slice(*(*self.starts, None)[index : index + 2])])

    @staticmethod
    def _real(real: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        return real.ravel() if shape in (real.shape, (real.size,)) else None
