"""Entries of sets matched: each of another model's at the place of the one of the original that it stands for.

The queries of a detector that a network sorts by value before its last layers come out in an order that a tiny change
of one score turns round. What such an output holds is a set, and two sets differ by as much as they do in the best
order: the one of least total difference (the assignment problem, solved by `scipy.optimize.linear_sum_assignment`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from onnxprune.outputs.meaning import Outputs, Part
from onnxprune.outputs.probability import SMALLEST_CHANCE, directions, log_probabilities


@dataclass(frozen=True, slots=True)
class Telling:
    """A part that tells the entries of a set apart.

    Attributes:
        part: the part; the entries are its only positions.
        share: how much it counts.
        unit: what its difference is measured in: one number, or one per column, where 0 tells nothing.
        weights: `(rows, entries)` how much each entry of the original matters; None for all alike.
    """

    part: Part
    share: float
    unit: np.ndarray
    weights: np.ndarray | None

    def apart(self, row: int, ours: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How far each entry of the original is from each of the other model in a row, `(entries, entries)`."""
        scale = self.share / np.where(self.unit > 0, self.unit, np.inf)
        apart = _APART[self.part.kind](self.part, ours, others, scale)
        return apart if self.weights is None else np.asarray(apart * self.weights[row][:, None])


def matched(
    telling: Sequence[Telling], axes: Mapping[str, int], ours: Outputs, others: Outputs
) -> dict[str, np.ndarray]:
    """Outputs of another model, with the entries of one set in the order in which they differ least from the original.

    Args:
        telling: what tells the entries apart.
        axes: per output that lists them, along which axis.
        ours: outputs of the original, batch axis first.
        others: of the other model; rows with values that are not finite stay as they are.
    """
    names = [each.part.output for each in telling]
    if any(np.shape(others[name]) != np.shape(ours[name]) for name in names):
        return dict(others)  # to be told of where they are compared
    told = [(each.part.values(ours[each.part.output]), each.part.values(others[each.part.output])) for each in telling]
    rows, entries, _ = told[0][0].shape
    order = np.tile(np.arange(entries), (rows, 1))
    for row in range(rows):
        if all(np.array_equal(a[row], b[row]) for a, b in told):
            continue
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            cost = np.sum([each.apart(row, a[row], b[row]) for each, (a, b) in zip(telling, told, strict=True)], axis=0)
        if np.isfinite(cost).all():
            order[row] = linear_sum_assignment(cost)[1]
    return {name: _ordered(array, order, axes.get(name)) for name, array in others.items()}


def _ordered(array: np.ndarray, order: np.ndarray, axis: int | None) -> np.ndarray:
    if axis is None:
        return array
    shape = [len(order) if at == 0 else -1 if at == axis else 1 for at in range(array.ndim)]
    return np.take_along_axis(array, order.reshape(shape), axis)


def _classes(part: Part, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    p, q = log_probabilities(a, part.form), log_probabilities(b, part.form)
    return np.asarray(_against(np.exp(p), p, q) * scale)


def _probabilities(_: Part, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    p, q = (np.clip(x, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE) for x in (a, b))
    apart = _against(p, np.log(p), np.log(q)) + _against(1 - p, np.log(1 - p), np.log(1 - q))
    return np.asarray(len(a) * apart * scale)  # such a part counts as the sum over its positions


def _quantities(_: Part, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scale = scale / a.shape[1]
    squares = [np.sum(x * x * scale, axis=1) for x in (a, b)]
    return np.asarray(np.maximum(squares[0][:, None] + squares[1] - 2 * (a * scale) @ b.T, 0.0))


def _embedding(_: Part, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray((1 - directions(a) @ directions(b).T) * scale)


def _labels(_: Part, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray((a[:, None] != b[None]).mean(axis=2) * scale)


def _against(p: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """`sum_c p_c (log p_c - log q_c)` of each row of `p` and each of `q`, `(rows, rows)`."""
    own = np.sum(np.where(p > 0, p * log_p, 0.0), axis=1)
    return np.asarray(own[:, None] - p @ log_q.T)


# How far each entry of one model is from each of another, `(entries, entries)`: as in `divergence.py`, in all pairs.
_APART: dict[str, Callable[[Part, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "classes": _classes,
    "probabilities": _probabilities,
    "quantities": _quantities,
    "embedding": _embedding,
    "labels": _labels,
}
