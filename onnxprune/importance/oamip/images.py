"""Chooses the calibration images that the program is built from, and tells the range of their values."""

from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.core.errors import InputError
from onnxprune.importance.oamip.affine import Limits

_PER_CLASS = 10
_BATCH = 64
_FORMS = "N, random:N, per-class, per-class:N or all"


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen rows of each program: one set, or one set per class whose scores are averaged.

    Attributes:
        sets: row numbers per program.
        notes: what the user should know.
    """

    sets: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()


def choose(spec: str, predicted: np.ndarray, labels: np.ndarray | None, seed: int) -> Choice:
    """Draw rows from those that the model classifies correctly.

    Args:
        spec: `N` (balanced by class), `random:N`, `per-class[:N]` (one program a class, 10 rows by default) or `all`
            (exactly the given rows, also those classified wrong).
        predicted: `(rows,)` the model's own arg-max.
        labels: `(rows,)` true classes; None takes the model's own.
        seed: seed of the draw.

    Raises:
        InputError: another form of `spec`, or no row that is classified right.
    """
    kind, count = _parse(spec)
    notes = []
    if labels is None:
        notes.append("no labels: the model's own arg-max is each image's class")
    classes = predicted if labels is None else labels
    if kind == "all":
        return Choice((np.arange(len(classes)),), tuple(notes))
    right = np.flatnonzero(predicted == classes)
    if not len(right):
        raise InputError(
            "no calibration row is classified as its label says; check the labels and "
            "--mean, --std, --scale and --layout"
        )
    shuffled = np.random.default_rng(seed).permutation(right)
    if kind == "random":
        chosen = [np.sort(shuffled[:count])]
    elif kind == "per-class":
        chosen = [np.sort(shuffled[classes[shuffled] == c][:count]) for c in np.unique(classes[right])]
    else:
        chosen = [_balanced(shuffled, classes, count)]
    if kind in ("balanced", "random") and len(chosen[0]) < count:
        notes.append(f"only {len(chosen[0])} of the {count} images asked for: no more rows are classified right")
    return Choice(tuple(chosen), tuple(notes))


def images_of_one(spec: str, rows: int) -> int:
    """How many images one program holds at most; see `choose`.

    Args:
        spec: the choice of images.
        rows: calibration rows at hand.

    Raises:
        InputError: another form of `spec`.
    """
    kind, count = _parse(spec)
    return rows if kind == "all" else min(count, rows)


def input_limits(data: Dataset) -> dict[str, Limits]:
    """The least and the largest value of each input in all rows: of images with black and white in them, these."""
    limits: dict[str, Limits] = {}
    for batch in data.batches(_BATCH):
        for name, values in batch.items():
            low, high = limits.get(name, (np.inf, -np.inf))
            numbers = values.astype(np.float64)
            limits[name] = float(numbers.min(initial=low)), float(numbers.max(initial=high))
    return limits


def _balanced(shuffled: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Rows in turns over the classes: the first row of each class, then the second, and so on."""
    drawn = classes[shuffled]
    turn = np.zeros(len(drawn), dtype=np.int64)
    for c in np.unique(drawn):
        turn[drawn == c] = np.arange(np.count_nonzero(drawn == c))
    order = np.lexsort((drawn, turn))
    return np.asarray(np.sort(shuffled[order[:count]]))


def _parse(spec: str) -> tuple[str, int]:
    kind, _, number = spec.strip().partition(":")
    if not number and kind.isdigit():
        kind, number = "balanced", kind
    if kind == "per-class" and not number:
        number = str(_PER_CLASS)
    if kind == "all" and not number:
        return kind, 0
    if kind not in ("balanced", "random", "per-class") or not number.isdigit() or int(number) < 1:
        raise InputError(f"images of the program: {spec!r} is not one of {_FORMS}")
    return kind, int(number)
