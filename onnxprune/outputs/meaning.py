"""What a model's outputs hold, as plain data: each output as parts of one kind (class scores, quantities, ...)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from onnxprune.core.errors import InputError

Kind = Literal["classes", "probabilities", "quantities", "embedding", "labels"]
Form = Literal["logits", "probabilities", "log_probabilities"]
Outputs = Mapping[str, np.ndarray]

KINDS: dict[Kind, str] = {
    "classes": "class scores",
    "probabilities": "independent probabilities",
    "quantities": "quantities",
    "embedding": "embeddings",
    "labels": "labels",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Values of one output that are of one kind. Axes are counted with the batch axis first.

    Attributes:
        output: name of the output.
        kind: what the values are. Class scores make one distribution at each position; probabilities are independent
            of each other; an embedding is one vector at each position; labels are whole numbers without an order.
        axis: the axis of classes, of a vector's elements, or of columns with a scale of their own. 0 where there is
            none: all places of a row are positions of one column, or, where `columns` tells which, columns.
        columns: the part's places along this axis; None for all.
        width: how many columns there are; 0 where it is not known.
        positions: sizes of the other axes but the rows; an axis that varies with the input has the size it was
            analysed at.
        form: how class scores or independent probabilities are given; these are made of logits by a sigmoid.
        scale: what probabilities were multiplied by on their way to the output.
        shift: what was added to them thereafter.
        confidence: numbers of the parts of scores that say how much each position of these quantities matters.
    """

    output: str
    kind: Kind
    axis: int = 1
    columns: tuple[int, ...] | None = None
    width: int = 0
    positions: tuple[int, ...] = ()
    form: Form = "logits"
    scale: float = 1.0
    shift: float = 0.0
    confidence: tuple[int, ...] = ()

    def values(self, rows: np.ndarray) -> np.ndarray:
        """The part's values as `(rows, positions, columns)` in float64, from an output with the batch axis first."""
        array = np.asarray(rows, np.float64)
        if self.axis == 0 or array.ndim < 2:
            array = array.reshape(len(array), -1)
            array = array[..., None] if self.columns is None else array[:, None, list(self.columns)]
        else:
            array = np.moveaxis(array, self.axis, -1)
            array = array if self.columns is None else array[..., list(self.columns)]
        if self.is_scaled:
            array = (array - self.shift) / self.scale
        array = array.reshape(len(array), -1, array.shape[-1])
        return np.asarray((1 + np.tanh(array / 2)) / 2) if self.is_sigmoid_missing else array

    def class_scores(self, rows: np.ndarray) -> np.ndarray:
        """The values as `(rows, positions, classes)`; one probability `p` becomes the two classes `1 - p, p`."""
        values = self.values(rows)
        return np.concatenate([1 - values, values], axis=2) if values.shape[2] == 1 else values

    def real(self, shape: tuple[int, ...], real: np.ndarray | None) -> np.ndarray | None:
        """Which positions are no padding, `(rows, positions)`; None where the part has no such positions.

        Args:
            shape: of the output, with the batch axis first.
            real: `(rows, S)`, False at padding; the first axis of `S` places is taken for that of the sequence.
        """
        sizes = [size for axis, size in enumerate(shape) if axis not in (0, self.axis)]
        if real is None or len(real) != shape[0] or real.shape[1] not in sizes or (not self.axis and self.columns):
            return None
        along = sizes.index(real.shape[1])
        spread = real.reshape(len(real), *(real.shape[1] if axis == along else 1 for axis in range(len(sizes))))
        return np.broadcast_to(spread, (len(real), *sizes)).reshape(len(real), -1)

    @property
    def is_scaled(self) -> bool:
        """Whether probabilities were multiplied or shifted on their way to the output."""
        return (self.scale, self.shift) != (1.0, 0.0)

    @property
    def is_sigmoid_missing(self) -> bool:
        """Whether independent probabilities are put out as logits."""
        return self.kind == "probabilities" and self.form == "logits"

    @property
    def count(self) -> int:
        """Number of positions in a row."""
        return prod(self.positions)

    @property
    def classifies(self) -> bool:
        """Whether each position belongs to one class: by class scores, or by one probability per position."""
        return self.kind == "classes" or (self.kind == "probabilities" and self.width == 1)


@dataclass(frozen=True, slots=True)
class EntrySet:
    """A set that outputs list: values decide in which order its entries stand.

    Attributes:
        parts: numbers of the parts that tell its entries apart, such as boxes and scores: they have no other positions.
        axes: per output that lists it, the axis along which the entries stand, the rows first.
        sort: name of the node that orders them.
    """

    parts: tuple[int, ...]
    axes: Mapping[str, int]
    sort: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What all compared outputs hold.

    Attributes:
        row_axes: per compared output, the axis that has an entry for each input row; None where there is none.
        parts: parts of all of them, output by output.
        weights: per part, its share in the damage; they add up to 1.
        sets: those that outputs list.
    """

    row_axes: Mapping[str, int | None]
    parts: tuple[Part, ...]
    weights: tuple[float, ...]
    sets: tuple[EntrySet, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the compared outputs."""
        return tuple(self.row_axes)

    @property
    def classifier(self) -> Part | None:
        """The first part that gives each row one class; None where there is none. Class scores come first."""
        parts = [part for part in self.parts if part.classifies and part.count == 1 and part.columns is None]
        return min(parts, key=lambda part: part.kind != "classes", default=None)

    def rows_first(self, output: str, array: np.ndarray) -> np.ndarray:
        """An output of one run with its batch axis first. Without a batch axis, the run counts as one row."""
        axis = self.row_axes[output]
        if axis is None or array.ndim <= axis:
            return np.asarray(array)[None]
        return np.moveaxis(array, axis, 0)

    def joined(self, runs: Sequence[Outputs], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs of consecutive runs joined along the batch axis.

        Raises:
            InputError: an output has other sizes in every run, as one that a loop writes until something is found.
        """
        joined = {}
        for name in self.outputs if names is None else names:
            arrays = [self.rows_first(name, run[name]) for run in runs]
            other = next((array for array in arrays if array.shape[1:] != arrays[0].shape[1:]), None)
            if other is not None:
                sizes = f"{[*arrays[0].shape]} and {[*other.shape]}"
                raise InputError(
                    f"output {name!r} has other sizes from run to run, {sizes}: models cannot be compared there; leave "
                    f"it out (--output {name}=ignored), or give rows of one size"
                )
            joined[name] = np.concatenate(arrays)
        return joined
