"""Where in the maps of a network's layers its outputs say something.

A detector's scores are near 0 at almost every position. Weights fitted to positions that are drawn evenly then serve
the background; half of them are drawn here instead, by the original's confidence at the place that they lead to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.outputs.divergence import CONFIDENT
from onnxprune.outputs.meaning import Meaning, Outputs
from onnxprune.outputs.origins import Origin, origins
from onnxprune.structure.analysis import Analysis

_SPARSE = 0.02  # share of positions that are sure; where there are more, evenly drawn ones see enough of them
_MOST_PLACES = 96  # along an axis of a map: finer ones would take memory and tell no more


@dataclass(frozen=True, slots=True)
class Focus:
    """How sure the original is at each position of some layers' maps.

    Attributes:
        maps: `(rows, *sizes)` arrays, one for each size of map that scores are read from.
        starts: the first row of each batch.
    """

    maps: tuple[np.ndarray, ...]
    starts: tuple[int, ...]

    def of_batch(self, index: int) -> Callable[[tuple[int, ...]], np.ndarray | None]:
        """A batch's confidence at all positions `(rows, *sizes)` of a map of any size, in order."""
        return partial(self._weights, self.starts[index])

    def _weights(self, start: int, shape: tuple[int, ...]) -> np.ndarray | None:
        weights = None
        for score_map in self.maps:
            part = score_map[start : start + shape[0]]
            if part.ndim != len(shape) or len(part) != shape[0]:
                return None
            for axis, size in enumerate(shape[1:], 1):
                part = _resized(part, axis, size)
            weights = part if weights is None else np.maximum(weights, part)
        return None if weights is None else weights.ravel()


def _resized(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """An axis with another number of positions: each takes the largest of those it covers, or its nearest."""
    places = np.arange(size) * array.shape[axis] // size
    if size >= array.shape[axis]:
        return np.asarray(np.take(array, places, axis))
    return np.asarray(np.maximum.reduceat(array, places, axis))


def focus_of(meaning: Meaning, analysis: Analysis, runs: Callable[[Sequence[str]], Iterable[Outputs]]) -> Focus | None:
    """The focus that scores tell; None where no scores lie on maps, and where none or many of them are sure.

    Args:
        meaning: of the outputs.
        analysis: of the original.
        runs: from names to these outputs on all rows, batch by batch; not asked where there are no such scores.
    """
    scores = [
        (part, origin, sizes)
        for part in meaning.parts
        if part.kind == "probabilities" and part.count > 1
        for origin in origins(part, meaning.row_axes[part.output], analysis)
        if (sizes := _sizes(origin, analysis))
    ]
    if not scores:
        return None
    maps: dict[tuple[int, ...], list[np.ndarray]] = {sizes: [] for _, _, sizes in scores}
    for run in runs([*dict.fromkeys(part.output for part, _, _ in scores)]):
        by_sizes: dict[tuple[int, ...], np.ndarray] = {}
        for part, origin, sizes in scores:
            confidence = part.values(meaning.rows_first(part.output, run[part.output])).max(axis=2)
            if origin.positions.max() >= confidence.shape[1]:  # other sizes of the input than were analysed
                return None
            score_map = by_sizes.setdefault(sizes, np.zeros((len(confidence), *sizes), np.float32))
            at = (np.arange(len(confidence))[:, None], *(place[None] for place in origin.places))
            np.maximum.at(score_map, at, confidence[:, origin.positions])
        for sizes, array in by_sizes.items():
            smaller = array
            for axis, size in enumerate(sizes, 1):
                smaller = _resized(smaller, axis, min(size, _MOST_PLACES))
            maps[sizes].append(smaller)
    joined = tuple(np.concatenate(parts) for parts in maps.values())
    starts = np.cumsum([0, *(len(score_map) for score_map in next(iter(maps.values())))])[:-1]
    confident = sum(np.count_nonzero(scores >= CONFIDENT) for scores in joined)
    sparse = 0 < confident < _SPARSE * sum(scores.size for scores in joined)
    return Focus(joined, tuple(starts.tolist())) if sparse else None


def _sizes(origin: Origin, analysis: Analysis) -> tuple[int, ...]:
    shape = analysis.facts.shapes[origin.layer.output]
    return tuple(size for axis, size in enumerate(shape) if axis not in (0, origin.layer.output_axis))
