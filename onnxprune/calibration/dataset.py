"""A dataset: rows of a model's inputs, with optional labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune.core.errors import InputError

Convert = Callable[[str, np.ndarray], np.ndarray]
"""From an input's name and stored rows to what the model takes."""


def as_is(name: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG001 (the signature of `Convert`)
    """Return the rows unchanged; the default of `Dataset.convert`."""
    return rows


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows of a model's inputs with optional labels, converted (scaled, cast) batch by batch when they are read.

    Attributes:
        arrays: per model input, `(rows, ...)` as stored.
        labels: `(rows, ...)` class numbers or what the outputs should be, or None.
        source: where the rows come from, for messages and reports.
        rows: indices into the arrays; a selection shares the arrays.
        convert: makes what the model takes of stored rows.
        whole: every row is a complete feed (a model with inputs that have no batch axis), so that batches hold one row.
        notes: what the user should know of the data.
        files: the files that the rows were read from, which nothing may be written to.
        warnings: what makes figures of the data say little, or something else than they seem to.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    source: str
    rows: np.ndarray
    convert: Convert = as_is
    whole: bool = False
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int] | np.ndarray) -> "Dataset":
        """A dataset of the rows at these positions, in this order; shares the arrays."""
        return replace(self, rows=self.rows[np.asarray(positions, dtype=np.int64)])

    def alone(self) -> "Dataset":
        """A dataset that holds only its selected rows, not the whole arrays."""
        arrays = {name: array[self.rows] for name, array in self.arrays.items()}
        return replace(self, arrays=arrays, labels=self.targets, rows=np.arange(len(self.rows)))

    @property
    def targets(self) -> np.ndarray | None:
        """Labels of the selected rows, `(rows, ...)`; None without labels."""
        return None if self.labels is None else self.labels[self.rows]

    @property
    def classes(self) -> np.ndarray | None:
        """Class numbers of the selected rows, `(rows,)`; None where there are no labels of that form."""
        labels = self.targets
        return labels if labels is not None and labels.ndim == 1 and labels.dtype.kind == "i" else None

    def with_classes(self) -> "Dataset":
        """The dataset with labels that are whole numbers of a floating-point type as class numbers."""
        labels = self.labels
        if labels is None or labels.ndim != 1 or labels.dtype.kind != "f" or (labels != np.floor(labels)).any():
            return self
        return replace(self, labels=labels.astype(np.int64)) if labels.min(initial=0) >= 0 else self

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input shapes of one row, which replace a model's symbolic sizes; empty without rows."""
        return {} if not len(self) else {name: array.shape for name, array in self.take([0]).feeds().items()}

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches of at most `size` rows as model inputs; single rows where a row is a complete set of inputs."""
        step = 1 if self.whole else size
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step]
            yield {name: self.convert(name, array[rows]) for name, array in self.arrays.items()}

    def feeds(self) -> dict[str, np.ndarray]:
        """All rows as one batch of model inputs.

        Raises:
            InputError: there are several rows and each is a complete feed.
        """
        if self.whole and len(self.rows) != 1:
            raise InputError(f"{self.source}: each of the {len(self)} rows is a complete feed; read them one at a time")
        return {name: self.convert(name, array[self.rows]) for name, array in self.arrays.items()}
