"""Backward elimination of a group's units by what their consumers' outputs lose after the best correction.

For a consumer with input columns `x` (second moments `G`), weight `W` and output `x W`, removing the columns of a
unit `c` and correcting the others by least squares costs `e_c = tr(W_c^T (Ginv_cc)^-1 W_c)`, after which `W -=
Ginv_:c (Ginv_cc)^-1 W_c` and `Ginv -= Ginv_:c (Ginv_cc)^-1 Ginv_c:`: the optimal brain surgeon (Hassibi and Stork,
1993) in blocks. The unit with the smallest loss, summed over all consumers relative to their outputs' energy, goes
first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_SHRINK_AT = 0.75  # share of a consumer's stored units that are left when the others' columns are dropped


@dataclass(frozen=True, slots=True)
class Consumer:
    """What one consumer contracts, as arrays.

    Attributes:
        gram: `(K, K)` second moments of its input columns, about the mean where it has a bias to correct.
        mean: `(K,)` mean of the columns; 0 where there is no bias.
        weight: `(K, C)` its matrix.
        blocks: `(n, b)` columns of each of the group's units.
        metric: `(C,)` weight of each output's squared error.
    """

    gram: np.ndarray
    mean: np.ndarray
    weight: np.ndarray
    blocks: np.ndarray
    metric: np.ndarray


@dataclass(frozen=True, slots=True)
class Task:
    """One group's elimination.

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
    """A consumer with units removed: `weight` `(K, C)`, zero where removed, and the `shift` `(C,)` of its output."""

    weight: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, slots=True)
class Elimination:
    """The result.

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
        """Everything as named arrays."""
        found = {"order": self.order, "errors": self.errors}
        for width, layers in self.corrected.items():
            for number, each in enumerate(layers):
                found[f"weight/{width}/{number}"], found[f"shift/{width}/{number}"] = each.weight, each.shift
        return found

    @classmethod
    def from_arrays(cls, group: str, arrays: Mapping[str, np.ndarray]) -> "Elimination":
        """What `arrays` were made from."""
        corrected: dict[int, tuple[Corrected, ...]] = {}
        for key, weight in arrays.items():
            kind, _, rest = key.partition("/")
            if kind == "weight":  # in their own order
                width = int(rest.partition("/")[0])
                corrected[width] = (*corrected.get(width, ()), Corrected(weight, arrays[f"shift/{rest}"]))
        return cls(group, arrays["order"], arrays["errors"], corrected)


def eliminate(task: Task) -> Elimination:
    """Remove a group's units one by one. Pure: runs in any process."""
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
    """One consumer in the middle of the elimination.

    Columns lie unit by unit, those of no unit last; columns of removed units are dropped every now and then, so that
    the matrices shrink with the group.
    """

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        gram = np.asarray(consumer.gram, dtype=np.float64)
        scale = max(float(np.trace(gram)) / max(len(gram), 1), 1e-30)
        weight = np.asarray(consumer.weight, dtype=np.float64)
        energy = float(np.einsum("kc,kc,c->", weight, gram @ weight, consumer.metric, optimize=True))
        self._relative = 1.0 / max(energy, 1e-30)
        self._consumer = consumer
        others = np.setdiff1d(np.arange(len(gram)), consumer.blocks)
        self._units = np.arange(len(consumer.blocks))  # those whose columns are here
        self._gone = np.zeros(len(consumer.blocks), dtype=bool)
        self._columns = np.concatenate([consumer.blocks.reshape(-1), others])
        inverse = np.linalg.inv(gram + ridge * scale * np.eye(len(gram)))
        # Fortran order, as BLAS updates it in place.
        self._inverse = np.asfortranarray(inverse[np.ix_(self._columns, self._columns)])
        self._weight = weight[self._columns]

    def losses(self) -> np.ndarray:
        """`(n,)` relative loss of removing each unit next; of no meaning for those removed."""
        count, width = len(self._units), self._consumer.blocks.shape[1]
        weight = self._weight[: count * width].reshape(count, width, -1)
        at = np.arange(count * width).reshape(count, width)
        inner = self._inverse[at[:, :, None], at[:, None, :]]
        inner[self._gone[self._units]] = np.eye(width)
        squares = (weight * self._consumer.metric) @ weight.transpose(0, 2, 1)
        solved = np.linalg.solve(inner, squares) if width > 1 else squares / inner
        losses = np.zeros(len(self._gone))
        losses[self._units] = np.trace(solved, axis1=1, axis2=2) * self._relative
        return losses

    def remove(self, unit: int) -> None:
        """Remove a unit and correct the other columns."""
        from scipy.linalg.blas import dgemm

        width = self._consumer.blocks.shape[1]
        place = int(np.searchsorted(self._units, unit)) * width
        own = slice(place, place + width)
        across = np.array(self._inverse[:, own], order="F")
        inner = across[own]
        dgemm(-1.0, across, np.linalg.solve(inner, across.T), 1.0, self._inverse, overwrite_c=True)
        change = np.linalg.solve(inner, self._weight[own])
        dgemm(-1.0, change, across, 1.0, self._weight.T, trans_a=True, trans_b=True, overwrite_c=True)
        self._weight[own] = 0.0
        self._gone[unit] = True
        left = ~self._gone[self._units]
        if left.sum() <= _SHRINK_AT * len(left):
            kept = np.ones(len(self._columns), dtype=bool)
            kept[: len(left) * width] = np.repeat(left, width)
            self._units, self._columns, self._weight = self._units[left], self._columns[kept], self._weight[kept]
            self._inverse = np.asfortranarray(self._inverse[np.ix_(kept, kept)])

    def corrected(self) -> Corrected:
        """The weights now, with exact zeros, and how the output's mean must shift."""
        weight = np.zeros(self._consumer.weight.shape)
        weight[self._columns] = self._weight
        shift = self._consumer.mean @ (self._consumer.weight - weight)
        return Corrected(weight.astype(np.float32), shift)
