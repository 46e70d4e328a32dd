"""Measures how far two sets of model outputs differ, in a way that fits what each output holds.

Every part has a unit of its own: what its outputs would lose if they said the same of every row. A divergence of 1 then
means that a part tells nothing any more, whatever its scale, and parts can be weighed against each other. A part that
stands alone needs no unit, and class scores and probabilities are then given in nats.
"""

from collections.abc import Callable, Iterator

import numpy as np

from onnxprune.core.errors import InputError
from onnxprune.outputs.matching import Telling, matched
from onnxprune.outputs.meaning import Meaning, Outputs, Part
from onnxprune.outputs.objectness import confidence, has_objectness
from onnxprune.outputs.probability import SMALLEST_CHANCE, SMALLEST_PROBABILITY, directions, log_probabilities

# A part that tells less than this of a row, in nats, is weighed as if it told as much: a detector's scores on rows
# without objects would otherwise have to be kept to the last digit.
_LEAST_NATS = 0.1
_LEAST_SPREAD = 1e-4  # of a column's mean square: what counts as spread where a column hardly varies
_LEAST_TURN = 1e-6
_MANY = 100  # rows of which some may be left out
CONFIDENT = 0.1  # where no position is as confident as this, all of them count alike
FLOOR = 0.1  # of the mean confidence: what positions without any count
_BLOCK_ELEMENTS = 1 << 24

Block = tuple[np.ndarray, np.ndarray]


class Reference:
    """The original's outputs, and how far other outputs differ from them.

    Args:
        meaning: what the outputs mean.
        outputs: `(rows, ...)` per output name.
        real: `(rows, S)`, False where a position of a sequence is padding: what a part says there does not count.

    Attributes:
        units: what each part's divergence is measured in: one number, or one per column.
        confidences: mean confidence beside each part of quantities; 0 where all positions count alike.
    """

    def __init__(self, meaning: Meaning, outputs: Outputs, real: np.ndarray | None = None) -> None:
        self.meaning = meaning
        self.outputs = {name: np.asarray(outputs[name]) for name in meaning.outputs}
        self._real = real
        self._objectness = [self._mean_objectness(number) for number in range(len(meaning.parts))]
        self._weights = [self._position_weights(part) for part in meaning.parts]
        self.confidences = tuple(mean for _, mean in self._weights)
        alone = len(meaning.parts) == 1
        self.units = tuple(self._unit(number, alone) for number in range(len(meaning.parts)))

    def divergence(self, outputs: Outputs) -> float:
        """Mean difference of `outputs` from the original's, over all rows and parts."""
        return float(np.mean(self.rows(outputs)))

    def usual(self, outputs: Outputs) -> float:
        """Mean difference of `outputs` from the original's over most rows: all but the twentieth that differ most.

        A sure classifier's answer turns on few rows, whose divergence is far larger than that of all others together.
        Which rows these are is chance: without them two draws of rows agree far better. Few rows can spare none.
        """
        rows = np.sort(self.rows(outputs))
        left_out = len(rows) // 20 if len(rows) >= _MANY else 0
        return float(np.mean(rows[: len(rows) - left_out])) if np.isfinite(rows).all() else np.inf

    def rows(self, outputs: Outputs) -> np.ndarray:
        """Difference of each row from the original's, `(rows,)`: a weighted mean over parts.

        Infinite where a value is not finite.
        """
        outputs = self.matched(outputs)
        by_part = [self._rows(number, outputs) for number in range(len(self.meaning.parts))]
        axes = self.meaning.row_axes
        counts = [len(self.outputs[name]) for name, axis in axes.items() if axis is not None]
        count = counts[0] if counts else max(len(rows) for rows in by_part)
        # An output without rows counts as a whole.
        even = [rows if len(rows) == count else np.full(count, rows.mean()) for rows in by_part]
        total = np.average(even, axis=0, weights=self.meaning.weights) if len(even) > 1 else even[0]
        return np.where(np.isfinite(total), total, np.inf)

    def parts(self, outputs: Outputs) -> tuple[float, ...]:
        """Difference of each part, in the part's own unit (see `units`)."""
        outputs = self.matched(outputs)
        means = [float(np.mean(self._rows(number, outputs))) for number in range(len(self.meaning.parts))]
        return tuple(mean if np.isfinite(mean) else float("inf") for mean in means)

    def matched(self, outputs: Outputs) -> Outputs:
        """The outputs with the entries of sets at the places of those of the original that they differ least from."""
        for entries in self.meaning.sets:
            telling = [
                Telling(self.meaning.parts[n], self.meaning.weights[n], self.units[n], self._weights[n][0])
                for n in entries.parts
            ]
            outputs = matched(telling, entries.axes, self.outputs, outputs)
        return outputs

    def _rows(self, number: int, outputs: Outputs) -> np.ndarray:
        part, unit = self.meaning.parts[number], self.units[number]
        given, (weights, _) = np.asarray(outputs[part.output]), self._weights[number]
        if given.shape != self.outputs[part.output].shape:
            raise InputError(
                f"output {part.output!r} has {given.size} values instead of {self.outputs[part.output].size} once "
                "units are removed: how many depends on the values, so that it cannot be compared; leave it out "
                f"(--output {part.output}=ignored)"
            )
        with np.errstate(invalid="ignore", over="ignore"):
            differences = []
            for rows, a in self._blocks(part):
                here = None if weights is None else weights[rows]
                differences.append(self._apart(number, a, part.values(given[rows]), unit, here))
        return np.concatenate(differences)

    def _apart(
        self, number: int, a: np.ndarray, b: np.ndarray, unit: np.ndarray, weights: np.ndarray | None
    ) -> np.ndarray:
        """Difference of each row; where the first column is an objectness, classes count by it, with a floor."""
        part, mean = self.meaning.parts[number], self._objectness[number]
        measure = _DIVERGENCE[part.kind]
        if mean is None:
            return measure(part, a, b, unit, weights)
        there = (a[..., 0] / mean + FLOOR) / (1 + FLOOR)
        there = there if weights is None else there * weights
        first, classes = (slice(1), weights), (slice(1, None), there)
        return np.asarray(sum(measure(part, a[..., at], b[..., at], unit, by) for at, by in (first, classes)))

    def _mean_objectness(self, number: int) -> float | None:
        """The mean of a column that says whether there is something, in front of the classes; None without one."""
        part = self.meaning.parts[number]
        if part.kind != "probabilities" or not any(number in other.confidence for other in self.meaning.parts):
            return None
        blocks = [(has_objectness(a), len(a), float(a[..., 0].mean())) for _, a in self._blocks(part)]
        rows = sum(count for _, count, _ in blocks)
        if 2 * sum(count for told, count, _ in blocks if told) <= rows:
            return None
        return max(sum(count * mean for _, count, mean in blocks) / rows, SMALLEST_CHANCE)

    def _blocks(self, part: Part) -> Iterator[tuple[slice, np.ndarray]]:
        array = self.outputs[part.output]
        step = max(1, _BLOCK_ELEMENTS // max(1, array[:1].size))
        for start in range(0, len(array), step):
            rows = slice(start, start + step)
            yield rows, part.values(array[rows])

    def _said(self, part: Part) -> Iterator[np.ndarray]:
        """The part's values at all positions but padding, `(positions, columns)` block by block."""
        real = self._real_of(part)
        for rows, a in self._blocks(part):
            yield a.reshape(-1, a.shape[2]) if real is None else a[real[rows] > 0]

    def _position_weights(self, part: Part) -> tuple[np.ndarray | None, float]:
        """Weights `(rows, positions)` of mean 1, and the mean confidence beside quantities (such as boxes).

        Where nothing is found, what stands beside it means nothing: the boxes of a detector's background. Nor does what
        stands at padding.
        """
        real = self._real_of(part)
        scores = [self.meaning.parts[number] for number in part.confidence]
        if scores:
            sure = np.min([self._confidence(score) for score in scores], axis=0)
            if sure.max(initial=0.0) >= CONFIDENT:
                mean = float(sure.mean())
                weights = np.asarray((sure / mean + FLOOR) / (1 + FLOOR))
                return weights if real is None else weights * real, mean
        return real, 0.0

    def _real_of(self, part: Part) -> np.ndarray | None:
        """Weights `(rows, positions)` that leave out padding, of mean 1 in each row; None where the part has none."""
        real = part.real(self.outputs[part.output].shape, self._real)
        return None if real is None else np.asarray(real / real.mean(axis=1, keepdims=True))

    def _confidence(self, part: Part) -> np.ndarray:
        """Confidence `(rows, positions)` that there is something to find (not background) at a position.

        The most probable of independent classes; of a distribution, what is not of the class that is usual.
        """
        if part.kind == "probabilities":
            apart = self._objectness[self.meaning.parts.index(part)] is not None
            return np.concatenate([confidence(a, apart) for _, a in self._blocks(part)])
        usual = self.usual_class(part)
        return np.concatenate([1 - np.exp(log_probabilities(a, part.form))[..., usual] for _, a in self._blocks(part)])

    def usual_class(self, part: Part) -> int:
        """The class with the largest mean probability over all rows and positions."""
        return int(self._usual(part).argmax())

    def _unit(self, number: int, alone: bool) -> np.ndarray:
        """The unit of a part's divergence, one number or one per column: the loss of a constant prediction."""
        part = self.meaning.parts[number]
        if part.kind == "quantities":
            return self._spread(part)
        if part.kind == "labels" or (alone and part.kind != "embedding"):
            return np.ones(1)
        usual = self._usual(part)
        real = self._real_of(part)
        told = [
            self._apart(number, a, np.broadcast_to(usual, a.shape), np.ones(1), None if real is None else real[rows])
            for rows, a in self._blocks(part)
        ]
        least = _LEAST_TURN if part.kind == "embedding" else _LEAST_NATS
        return np.array([max(float(np.mean(np.concatenate(told))), least)])

    def _usual(self, part: Part) -> np.ndarray:
        """The best constant prediction: the mean over rows and positions, `(columns,)` in the part's form."""
        sums, count = np.zeros(1), 0
        for a in self._said(part):
            said = a
            if part.kind == "classes":
                said = np.exp(log_probabilities(a, part.form))
            elif part.kind == "embedding":
                said = directions(a)
            sums, count = sums + said.sum(axis=0), count + len(a)
        mean = sums / max(count, 1)
        if part.kind == "classes" and part.form != "probabilities":
            return np.asarray(np.log(np.maximum(mean, SMALLEST_PROBABILITY)))
        return np.asarray(mean)

    def _spread(self, part: Part) -> np.ndarray:
        """Variance of each column over rows and positions, `(columns,)`."""
        sums = squares = np.zeros(1)
        count = 0
        for a in self._said(part):
            sums, squares = sums + a.sum(axis=0), squares + np.square(a).sum(axis=0)
            count += len(a)
        energy = squares / max(count, 1)
        variance = np.maximum(energy - np.square(sums / max(count, 1)), 0.0)
        least = _LEAST_SPREAD * energy
        return np.asarray(variance + np.where(np.isfinite(least), least, 0.0))


def divergence(reference: Outputs, outputs: Outputs, meaning: Meaning) -> float:
    """Mean difference of `outputs` from `reference`; see `Reference`."""
    return Reference(meaning, reference).divergence(outputs)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """`(rows,)` the mean of `(rows, positions)` values, with weights of mean 1."""
    return np.asarray((values if weights is None else values * weights).mean(axis=1))


def _classes(part: Part, a: np.ndarray, b: np.ndarray, unit: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Kullback-Leibler divergence `sum_c p_c (log p_c - log q_c)` in nats, averaged over positions."""
    p, q = log_probabilities(a, part.form), log_probabilities(b, part.form)
    divergences = np.sum(np.where(p == -np.inf, 0.0, np.exp(p) * (p - q)), axis=2)
    return np.asarray(_mean(np.maximum(divergences, 0.0), weights) / unit)


def _probabilities(_: Part, a: np.ndarray, b: np.ndarray, unit: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Sum over a row of binary divergences `p log(p / q) + (1 - p) log((1 - p) / (1 - q))`, in nats."""
    p, q = (np.clip(x, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE) for x in (a, b))
    divergences = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    by_position = np.maximum(divergences, 0.0).sum(axis=2)
    return np.asarray(_mean(by_position, weights) * by_position.shape[1] / unit)


def _quantities(_: Part, a: np.ndarray, b: np.ndarray, unit: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Squared error relative to each column's variance, averaged over columns and (weighted) positions."""
    square = np.square(a - b)
    with np.errstate(divide="ignore", invalid="ignore"):  # what never varied may not differ at all
        relative = np.where(square == 0, 0.0, square / unit) if (unit <= 0).any() else square / unit
    return _mean(relative.mean(axis=2), weights)


def _embedding(_: Part, a: np.ndarray, b: np.ndarray, unit: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Cosine distance `1 - cos(a, b)` of two vectors, averaged over positions."""
    turn = 1 - np.sum(directions(a) * directions(b), axis=2)
    return np.asarray(_mean(np.maximum(turn, 0.0), weights) / unit)


def _labels(_: Part, a: np.ndarray, b: np.ndarray, __: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Share of labels that differ (error rate)."""
    return _mean((a != b).mean(axis=2), weights)


_DIVERGENCE: dict[str, Callable[[Part, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]] = {
    "classes": _classes,
    "probabilities": _probabilities,
    "quantities": _quantities,
    "embedding": _embedding,
    "labels": _labels,
}
