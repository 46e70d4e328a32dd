"""Detectors that say apart whether there is something at a position, and of which class it is.

The classes are trained only where there is something; what they say elsewhere means nothing, and is often high. The
application multiplies both. Which column is the objectness no graph tells: it stands in front of the classes, and is
seldom high where some class nearly always is.
"""

import numpy as np

FOUND = 0.25
"""Probability from which on something counts as found."""

_EVERYWHERE = 0.2  # share of the positions where something is found in no image
_SELDOM = 0.25  # of that: how often an objectness is high


def has_objectness(values: np.ndarray) -> bool:
    """Whether the first column says that there is something, and the others of which class.

    Args:
        values: `(rows, positions, columns)` independent probabilities of the original.
    """
    if values.shape[2] < 2 or not values.size:
        return False
    sure = values >= FOUND
    some = float(sure.any(axis=2).mean())
    return some > _EVERYWHERE and float(sure[..., 0].mean()) < _SELDOM * some


def confidence(values: np.ndarray, objectness: bool) -> np.ndarray:
    """How sure a detector is at each position, `(rows, positions)`: of its most probable class."""
    if not objectness:
        return np.asarray(values.max(axis=2))
    return np.asarray(values[..., 0] * values[..., 1:].max(axis=2))
