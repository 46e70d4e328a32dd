"""What a scorer returns: how much each unit matters, and the predicted damage of removing units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.core.results import ProgramReport

_DIVIDED = 4  # units from which on there is a quarter


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How much each unit of one group matters, and the predicted damage at every width.

    Attributes:
        group: name of the group.
        order: `(n,)` positions within the group; the first is removed first.
        scores: `(n,)` in [0, 1] by position, 1 matters most; shown to the user and compared with `--threshold`.
        damage: `(n + 1,)` predicted damage to the task when the last `k` units of `order` are kept, 0 at `k = n`. All
            groups of one scorer use one scale; entry 0 is read only where `whole`.
        free: how many of the first in `order` go without loss, whatever the budget or threshold; their damage is 0.
        judged: whether the scorer knows the units; where not, all stay but those that go without loss.
        whole: whether the group may lose all its units; then entry 0 of `damage` was measured.
    """

    group: str
    order: np.ndarray
    scores: np.ndarray
    damage: np.ndarray
    free: int = 0
    judged: bool = True
    whole: bool = False

    @property
    def least(self) -> int:
        """The smallest number of units that may be kept."""
        return 1 if self.judged else max(1, len(self.order) - self.free)

    def finite(self) -> "GroupScore":
        """The same, or not judged where a score or the damage of a width is no finite number."""
        if np.isfinite(self.scores).all() and np.isfinite(self.damage[1:]).all():
            return self
        n = len(self.order)
        return GroupScore(self.group, np.arange(n), np.zeros(n), np.zeros(n + 1), judged=False)

    def dearer_below_a_quarter(self, damage: float) -> "GroupScore":
        """The same, where keeping less than a quarter of the units does so much damage more."""
        quarter = len(self.order) // 4
        added = np.where(np.arange(len(self.damage)) < quarter, damage, 0.0)
        return replace(self, damage=self.damage + added)

    def with_free(self, free: np.ndarray) -> "GroupScore":
        """The same scores where some units cost nothing to remove, and so are removed first.

        `free` is `(n,)`, True by position. The other units keep the damage that each of them added.
        """
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
    """A scorer's result: one entry per group, in the order of the analysis.

    Attributes:
        groups: scores of every group.
        program: the scorer's own program, where it solved one.
        oamip: what the report says of the paper's program.
        notes: what the user should know.
        powers: exponents other than 1 for the damage curves; the allocation is also tried with the curves raised to
            each of them, since the damage of several groups together is not the sum of their single damages.
        warnings: what makes the scores say little.
    """

    groups: tuple[GroupScore, ...]
    program: ProgramReport | None = None
    oamip: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())
    powers: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()

    def finite(self) -> "Scores":
        """The same, but a group whose scores or damage are not finite is not judged: weights may be infinite."""
        return replace(self, groups=tuple(group.finite() for group in self.groups))

    def with_free(self, units: Sequence[np.ndarray], free: np.ndarray) -> "Scores":
        """The same scores where some units cost nothing to remove: first of their group, whatever their score.

        Args:
            units: unit numbers of each group, in the groups' order.
            free: `(units,)` True where a unit goes without loss.
        """
        pairs = zip(self.groups, units, strict=True)
        groups = (score.with_free(free[members]) if free[members].any() else score for score, members in pairs)
        return replace(self, groups=tuple(groups))

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Names of the groups that the scorer cannot judge."""
        return tuple(score.group for score in self.groups if not score.judged)

    def cautious(self) -> "Scores":
        """The same scores where less than a quarter of a group does the typical damage of a quarter besides.

        Below a quarter, damage is told by what lies above it: next to nothing, down to the last unit, of a group whose
        removal has hurt none of the rows so far.
        """
        quarters = [group.damage[len(group.order) // 4] for group in self.groups if len(group.order) >= _DIVIDED]
        typical = float(np.median(quarters)) if quarters else 0.0
        return replace(self, groups=tuple(group.dearer_below_a_quarter(typical) for group in self.groups))

    def raised(self, power: float) -> "Scores":
        """The same scores with every damage curve raised to a power; see `powers`."""
        return replace(self, groups=tuple(replace(group, damage=group.damage**power) for group in self.groups))


def monotone(damage: np.ndarray) -> np.ndarray:
    """The damage curve made non-increasing: `result[k] = max_(j >= k) damage[j]`, of the same shape.

    Keeping fewer units cannot truly do less damage: a dip in a measured curve is noise, and a program that minimises
    would seek out exactly the dips. So a width is charged the worst damage of the widths above it, never less.
    """
    return np.asarray(np.maximum.accumulate(damage[::-1])[::-1], dtype=np.float64)


def removal_to_damage(scores: np.ndarray) -> np.ndarray:
    """A damage curve from scores alone: units are removed in ascending order of score, and scores add up.

    Removing a unit is charged its score: `damage[k]` is the sum of the `n - k` smallest of `n` scores. This assumes
    that units add up, and that scores of different groups are on one scale. The order of removal it belongs to is
    `np.argsort(scores, kind="stable")`.

    Args:
        scores: `(n,)` importance per unit in [0, 1]; 1 is most important.

    Returns:
        `(n + 1,)` non-increasing and convex in the kept width `k`, with 0 at `k = n`.

    Raises:
        ValueError: scores that are not one-dimensional, not finite or outside [0, 1].
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise ValueError("scores must be a one-dimensional array of numbers in [0, 1]")
    return np.concatenate([[0.0], np.cumsum(np.sort(values))])[::-1].copy()
