"""Backward elimination of a group's units by what their consumers' outputs lose after the best correction.

For a consumer with input columns `x` (second moments `G`), weight `W` and output `x W`, removing the columns of a
unit `c` and correcting the others by least squares costs `e_c = tr(W_c^T (Ginv_cc)^-1 W_c)`, after which `W -=
Ginv_:c (Ginv_cc)^-1 W_c` and `Ginv -= Ginv_:c (Ginv_cc)^-1 Ginv_c:`: the optimal brain surgeon (Hassibi and Stork,
1993) in blocks. The unit with the smallest loss, summed over all consumers relative to their outputs' energy, goes
first.
"""

from dataclasses import dataclass

import numpy as np


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
            corrected[width] = tuple(state.corrected(alive) for state in states)
    return Elimination(task.group, order, errors, corrected)


class _State:
    """One consumer in the middle of the elimination."""

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        gram = np.asarray(consumer.gram, dtype=np.float64)
        scale = max(float(np.trace(gram)) / max(len(gram), 1), 1e-30)
        self._consumer = consumer
        self._inverse = np.linalg.inv(gram + ridge * scale * np.eye(len(gram)))
        self._weight = np.array(consumer.weight, dtype=np.float64)
        energy = float(np.einsum("kc,kl,lc,c->", self._weight, gram, self._weight, consumer.metric, optimize=True))
        self._relative = 1.0 / max(energy, 1e-30)
        self._gone = np.zeros(len(consumer.blocks), dtype=bool)

    def losses(self) -> np.ndarray:
        """`(n,)` relative loss of removing each unit next; of no meaning for those removed."""
        blocks = self._consumer.blocks
        width = blocks.shape[1]
        inner = self._inverse[blocks[:, :, None], blocks[:, None, :]]
        inner[self._gone] = np.eye(width)
        weight = self._weight[blocks]
        solved = np.linalg.solve(inner, weight) if width > 1 else weight / inner
        return np.asarray(
            np.einsum("nbc,nbc,c->n", weight, solved, self._consumer.metric, optimize=True) * self._relative
        )

    def remove(self, unit: int) -> None:
        """Remove a unit and correct the other columns."""
        columns = self._consumer.blocks[unit]
        across = self._inverse[:, columns]
        factor = np.linalg.solve(across[columns], np.hstack([across.T, self._weight[columns]]))
        self._inverse -= across @ factor[:, : len(across)]
        self._weight -= across @ factor[:, len(across) :]
        self._weight[columns] = 0.0
        self._gone[unit] = True

    def corrected(self, alive: np.ndarray) -> Corrected:
        """The weights now, with exact zeros, and how the output's mean must shift."""
        weight = self._weight.copy()
        weight[self._consumer.blocks[~alive].reshape(-1)] = 0.0
        shift = self._consumer.mean @ (self._consumer.weight - weight)
        return Corrected(weight.astype(np.float32), shift)
