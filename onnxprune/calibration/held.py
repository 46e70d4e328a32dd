"""Arrays as a data source gives them, before they are matched with the model's inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.core.errors import InputError

LABELS = "y"
DATA = "x"


@dataclass(frozen=True, slots=True)
class Held:
    """Arrays read from one file, from one folder, or in one step of a function, under the source's own names.

    Attributes:
        arrays: by the source's own names; `x` and `y` for an array without a name and for labels.
        origin: what they were read from, for messages.
        single: whether an array may be one row, without the leading axis.
        ordered: whether the arrays belong to the model's inputs in their order, whatever their names.
        files: whether the names are those of files, which may hold an input each, or rows.
    """

    arrays: Mapping[str, np.ndarray]
    origin: str
    single: bool = False
    ordered: bool = False
    files: bool = False


def held_by(feed: Any, origin: str) -> dict[str, np.ndarray]:
    """Arrays by name from what a user's function gave: a mapping, an array, or `(x, y)`.

    Raises:
        InputError: it is something else.
    """
    if isinstance(feed, tuple) and len(feed) == 2:
        data, labels = feed
        return {**held_by(data, origin), LABELS: _array(labels, LABELS, origin)}
    if isinstance(feed, Mapping):
        return {str(name): _array(value, name, origin) for name, value in feed.items()}
    if hasattr(feed, "__array__"):
        return {DATA: _array(feed, DATA, origin)}
    raise InputError(f"{origin}: a {type(feed).__name__} is not an array, (x, y), or a dict of arrays by input name")


def _array(value: Any, name: str, origin: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{origin}: {name!r} is not an array: {error}") from error
