"""Removes a group's units one by one, always the one that the remaining units replace with the least error.

For a consumer with input columns `x` (second moments `G`), weight `W` and output `x W`, removing the columns of a
unit `c` and correcting the others by least squares costs `e_c = tr(W_c^T (Ginv_cc)^-1 W_c)`, after which `W -=
Ginv_:c (Ginv_cc)^-1 W_c` and `Ginv -= Ginv_:c (Ginv_cc)^-1 Ginv_c:`: the optimal brain surgeon (Hassibi and Stork,
1993) in blocks. The unit with the smallest loss, summed over all consumers relative to their outputs' energy, goes
first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_DELAYED = 64  # columns whose removal changes the matrices in one product, which costs far less than one each
_SHRINK_AT = 0.75  # share of a consumer's stored units that are left when the others' columns are dropped


@dataclass(frozen=True, slots=True)
class Consumer:
    """One layer that uses the group's units, as arrays.

    Attributes:
        gram: `(K, K)` second moments of its input columns, about the mean where it has a bias to correct.
        mean: `(K,)` mean of the columns; 0 where there is no bias.
        weight: `(K, C)` its matrix.
        blocks: `(n, b)` columns of each of the group's units.
        metric: `(C,)` weight of each output's squared error.
        outputs: `(n, m)` outputs that go with each of the group's units, so that their errors count no more; None
            where none do.
    """

    gram: np.ndarray
    mean: np.ndarray
    weight: np.ndarray
    blocks: np.ndarray
    metric: np.ndarray
    outputs: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class EliminationTask:
    """Everything needed to eliminate the units of one group.

    Attributes:
        group: its name.
        consumers: what contracts over it.
        widths: those whose corrected weights are wanted.
        ridge: added to the second moments, relative to their mean diagonal.
    """

    group: str
    consumers: tuple[Consumer, ...]
    widths: tuple[int, ...]
    ridge: float


@dataclass(frozen=True, slots=True)
class Corrected:
    """A consumer's weights without the removed units, corrected for their loss.

    `weight` is `(K, C)`, zero for removed units; `shift` `(C,)` is to be added to its output.
    """

    weight: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, slots=True)
class Elimination:
    """The order in which a group's units go, and the error at every width.

    Attributes:
        group: the group.
        order: `(n,)` units by position, the first removed first.
        errors: `(n + 1,)` relative reconstruction error when the last `k` of `order` are kept (entry 0: all removed).
        corrected: per width, each consumer's corrected weights.
    """

    group: str
    order: np.ndarray
    errors: np.ndarray
    corrected: dict[int, tuple[Corrected, ...]]

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields as named arrays, for the cache."""
        arrays = {"order": self.order, "errors": self.errors}
        for width, layers in self.corrected.items():
            for number, consumer in enumerate(layers):
                arrays[f"weight/{width}/{number}"], arrays[f"shift/{width}/{number}"] = consumer.weight, consumer.shift
        return arrays

    @classmethod
    def from_arrays(cls, group: str, arrays: Mapping[str, np.ndarray]) -> "Elimination":
        """The elimination that `arrays` were made from."""
        corrected: dict[int, tuple[Corrected, ...]] = {}
        for key, weight in arrays.items():
            kind, _, rest = key.partition("/")
            if kind == "weight":  # in their own order
                width = int(rest.partition("/")[0])
                corrected[width] = (*corrected.get(width, ()), Corrected(weight, arrays[f"shift/{rest}"]))
        return cls(group, arrays["order"], arrays["errors"], corrected)


def eliminate(task: EliminationTask) -> Elimination:
    """Remove a group's units one by one. Depends on the task alone, so it may run in any process."""
    states = [_State(consumer, task.ridge) for consumer in task.consumers]
    n = len(task.consumers[0].blocks)
    alive = np.ones(n, dtype=bool)
    order, errors = np.zeros(n, dtype=np.int64), np.zeros(n + 1)
    corrected: dict[int, tuple[Corrected, ...]] = {}
    for step in range(n):
        losses = np.sum([state.losses() for state in states], axis=0)
        unit = int(np.argmin(np.where(alive, losses, np.inf)))
        alive[unit] = False
        order[step] = unit
        width = n - step - 1
        errors[width] = errors[width + 1] + max(0.0, float(losses[unit]))
        for state in states:
            state.remove(unit)
        if width in task.widths:
            corrected[width] = tuple(state.corrected() for state in states)
    return Elimination(task.group, order, errors, corrected)


class _State:
    """One consumer during the elimination.

    Columns lie unit by unit, those of no unit last. Matrices are brought up to date every `_DELAYED` columns; until
    then they lack `across @ change`, where `across` `(K, d)` holds the inverse's columns of what was removed and
    `change` what they are multiplied by. Losses need few values, which are kept as they are now. Columns of removed
    units are dropped every now and then, so that the matrices shrink with the group.
    """

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        gram = np.asarray(consumer.gram, dtype=np.float64)
        scale = max(float(np.trace(gram)) / max(len(gram), 1), 1e-30)
        weight = np.asarray(consumer.weight, dtype=np.float64)
        energy = float(np.einsum("kc,kc,c->", weight, gram @ weight, consumer.metric, optimize=True))
        self._relative = 1.0 / max(energy, 1e-30)
        self._metric = np.array(consumer.metric, np.float64)
        self._consumer = consumer
        others = np.setdiff1d(np.arange(len(gram)), consumer.blocks)
        self._units = np.arange(len(consumer.blocks))  # those whose columns are here
        self._gone = np.zeros(len(consumer.blocks), dtype=bool)
        self._columns = np.concatenate([consumer.blocks.reshape(-1), others])
        self._inverse = _inverse(gram[np.ix_(self._columns, self._columns)], ridge * scale)
        self._weight = weight[self._columns]
        n, width = consumer.blocks.shape
        at = np.arange(n * width).reshape(n, width)
        self._inner = self._inverse[at[:, :, None], at[:, None, :]]
        by_unit = self._weight[: n * width].reshape(n, width, -1)
        self._squares = (by_unit * consumer.metric) @ by_unit.transpose(0, 2, 1)
        self._delay()

    def losses(self) -> np.ndarray:
        """`(n,)` relative error that removing each unit next would add; entries of removed units mean nothing."""
        width = self._inner.shape[1]
        solved = np.linalg.solve(self._inner, self._squares) if width > 1 else self._squares / self._inner
        losses = np.zeros(len(self._gone))
        losses[self._units] = np.trace(solved, axis1=1, axis2=2) * self._relative
        return losses

    def remove(self, unit: int) -> None:
        """Remove a unit, and correct the remaining weights."""
        width = self._inner.shape[1]
        if self._delayed + width > self._across.shape[1]:
            self._update()
        place, start = int(np.searchsorted(self._units, unit)), self._delayed
        unit_columns = slice(place * width, (place + 1) * width)
        across, change, correction = self._across[:, :start], self._change[:start], self._correction[:start]
        column = self._inverse[unit_columns].T - across @ change[:, unit_columns]
        weight = self._weight[unit_columns] - across[unit_columns] @ correction
        solved = np.linalg.solve(column[unit_columns], np.concatenate([column.T, weight], axis=1))
        step = solved[:, len(column) :]
        # With `W' = W - A D` the products of units' weights change by -A F^T - F A^T, F = W D^T - A D D^T / 2.
        weighted = (step * self._metric).T
        product = self._weight @ weighted - across @ (correction @ weighted) - column @ (step @ weighted / 2)
        by_unit = (len(self._units), width, width)
        size = len(self._units) * width
        first, second = column[:size].reshape(by_unit), product[:size].reshape(by_unit)
        both = first @ second.transpose(0, 2, 1)
        self._squares -= both + both.transpose(0, 2, 1)
        self._inner -= first @ solved[:, :size].reshape(width, len(self._units), width).transpose(1, 0, 2)
        self._gone[unit] = True
        self._inner[place], self._squares[place] = np.eye(width), 0.0
        self._delayed += width
        now = slice(start, self._delayed)
        self._across[:, now], self._change[now], self._correction[now] = column, solved[:, : len(column)], step
        if self._consumer.outputs is not None:
            self._ignore(self._consumer.outputs[unit])

    def _ignore(self, outputs: np.ndarray) -> None:
        """Count errors of some outputs no more."""
        done, width = slice(self._delayed), self._inner.shape[1]
        weight = self._weight[:, outputs] - self._across[:, done] @ self._correction[done][:, outputs]
        by_unit = weight[: len(self._units) * width].reshape(len(self._units), width, -1)
        self._squares -= (by_unit * self._metric[outputs]) @ by_unit.transpose(0, 2, 1)
        self._metric[outputs] = 0.0

    def _delay(self) -> None:
        """Reserve space for changes of the matrices that are applied later."""
        most = max(_DELAYED, self._inner.shape[1])
        self._delayed = 0
        self._across, self._change = np.zeros((len(self._columns), most)), np.zeros((most, len(self._columns)))
        self._correction = np.zeros((most, self._weight.shape[1]))

    def _update(self) -> None:
        """Apply the delayed changes, and drop the columns of removed units where there are many."""
        done = slice(self._delayed)
        self._inverse = _less(self._inverse, self._across[:, done], self._change[done])
        self._weight = _less(self._weight, self._across[:, done], self._correction[done])
        remaining = ~self._gone[self._units]
        if remaining.sum() <= _SHRINK_AT * len(remaining):
            kept = np.ones(len(self._columns), dtype=bool)
            kept[: len(remaining) * self._inner.shape[1]] = np.repeat(remaining, self._inner.shape[1])
            self._inverse, self._weight = self._inverse[np.ix_(kept, kept)], self._weight[kept]
            self._units, self._columns = self._units[remaining], self._columns[kept]
            self._inner, self._squares = self._inner[remaining], self._squares[remaining]
        self._delay()

    def corrected(self) -> Corrected:
        """The present weights, exactly zero for removed units, and the shift of the output's mean."""
        self._update()
        weight = np.zeros(self._consumer.weight.shape)
        weight[self._columns] = self._weight
        weight[self._consumer.blocks[self._gone]] = 0.0
        shift = self._consumer.mean @ (self._consumer.weight - weight)
        return Corrected(weight.astype(np.float32), shift)


def _less(matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`matrix - first @ second`, computed in place where rows are contiguous."""
    from scipy.linalg.blas import dgemm

    # BLAS counts rows the other way round.
    return np.asarray(dgemm(-1.0, second.T, first.T, 1.0, matrix.T, overwrite_c=True).T)


def _inverse(gram: np.ndarray, ridge: float) -> np.ndarray:
    """`(gram + ridge I)^-1`, with the ridge raised until the sum is positive definite; overwrites `gram`.

    Where columns hardly vary beside their mean, rounding errors of their moments can exceed the ridge.
    """
    from scipy.linalg.lapack import dpotrf, dpotri

    diagonal = np.diag_indices(len(gram))
    least = max(float(np.finfo(np.float64).eps * np.trace(gram)), 1e-30)
    gram[diagonal] += ridge
    factor, failed = dpotrf(gram.T, lower=True)
    while failed:
        raised = max(10 * ridge, least)
        gram[diagonal] += raised - ridge
        ridge = raised
        factor, failed = dpotrf(gram.T, lower=True)
    lower, _ = dpotri(factor, lower=True, overwrite_c=True)
    inverse = np.add(lower.T, lower, order="C")
    inverse[diagonal] /= 2
    return np.asarray(inverse)
