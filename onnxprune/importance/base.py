"""What a scorer gets and returns."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.config import PruneConfig
from onnxprune.graph.model import Model
from onnxprune.graph.space import Ids, PruneSpace
from onnxprune.graph.view import GraphView
from onnxprune.result import ProgramReport

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done and steps in all (0 where their number is not known)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True, slots=True)
class ScoreContext:
    """The data of one scoring run.

    Attributes:
        model: the original model; no consumer in it uses what goes without loss.
        view: its graph.
        space: its groups, labels and layers.
        data: calibration rows; None where the scorer needs none and the user gave none.
        config: options.
        executor: where independent tasks run.
        progress: told of steps.
        free: `(units,)` True where a unit goes without loss, whatever its score; None where none does.
    """

    model: Model
    view: GraphView
    space: PruneSpace
    data: Dataset | None
    config: PruneConfig
    executor: Executor
    progress: Progress = no_progress
    free: Ids | None = None


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How much each unit of one group matters.

    Attributes:
        group: name of the group.
        order: `(n,)` positions within the group; the first is removed first.
        scores: `(n,)` in [0, 1] by position, 1 matters most; shown to the user and compared with `--threshold`.
        damage: `(n + 1,)` predicted damage to the task when the last `k` units of `order` are kept, 0 at `k = n`. All
            groups of one scorer use one scale; entry 0 is never read.
        free: how many of the first in `order` go without loss, whatever the budget or threshold; their damage is 0.
    """

    group: str
    order: np.ndarray
    scores: np.ndarray
    damage: np.ndarray
    free: int = 0

    def with_free(self, free: np.ndarray) -> "GroupScore":
        """The same where some units, `(n,)` by position, go first and without damage; others add what they added."""
        late = ~free[self.order]
        added = np.diff(self.damage[::-1])[late]
        damage = np.concatenate([np.zeros(1 + np.count_nonzero(free)), np.cumsum(added)])[::-1]
        return replace(
            self,
            order=np.concatenate([self.order[~late], self.order[late]]),
            scores=np.where(free, 0.0, self.scores),
            damage=np.maximum(damage, 0.0),
            free=int(np.count_nonzero(free)),
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """A scorer's result: one entry per group, in the space's order.

    Attributes:
        groups: scores of every group.
        program: the scorer's own program, where it solved one.
        oamip: what the report says of the paper's program.
        notes: what the user should know.
        powers: of the damage curves, other than 1, whose sums may also stand for what is lost jointly.
    """

    groups: tuple[GroupScore, ...]
    program: ProgramReport | None = None
    oamip: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())
    powers: tuple[float, ...] = ()

    def with_free(self, space: PruneSpace, free: Ids) -> "Scores":
        """The same where units, `(units,)` of a space, go without loss: first of their group, whatever their score."""
        pairs = zip(self.groups, space.groups, strict=True)
        groups = (score.with_free(free[group.units]) if free[group.units].any() else score for score, group in pairs)
        return replace(self, groups=tuple(groups))

    def raised(self, power: float) -> "Scores":
        """The same with every damage curve raised to a power."""
        return replace(self, groups=tuple(replace(group, damage=group.damage**power) for group in self.groups))


class Scorer(Protocol):
    """A scorer: a function of the context alone."""

    def __call__(self, context: ScoreContext) -> Scores:
        """Score every group of the context's space."""
