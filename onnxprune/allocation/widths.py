"""The widths that groups may be given: multiples of a step each, or what was measured to be fast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Widths:
    """Allowed widths per group; all units of a group are always among them.

    Attributes:
        sizes: units per group.
        steps: a width is a multiple of its group's step.
        floors: the least multiples; 0 means one step.
        rule: what chose them, for plan and report.
        chosen: ascending widths by group, where single ones were chosen; steps hold beside them.
        strict: whether the steps hold whatever it costs; where not, `finer` gives way.
        halvings: how often the steps were halved.
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    floors: tuple[int, ...]
    rule: str
    chosen: Mapping[int, np.ndarray] = field(default_factory=dict)
    strict: bool = False
    halvings: int = 0

    @classmethod
    def multiples(cls, sizes: Sequence[int], step: int = 1) -> "Widths":
        """Multiples of one number, as the user asked for."""
        rule = f"multiples of {step}" if step > 1 else "any"
        return cls(tuple(sizes), (step,) * len(sizes), (0,) * len(sizes), rule, strict=True)

    def of(self, group: int) -> np.ndarray:
        """Widths of a group, ascending; never empty, and the last is the whole group."""
        size, step = self.sizes[group], self.steps[group]
        multiples = np.arange(max(step, self.floors[group]), size, step)
        if group in self.chosen:
            multiples = np.intersect1d(multiples, self.chosen[group])
        return np.append(multiples, size)

    def at_least(self, group: int, width: int) -> int:
        """The smallest width of a group from `width` on."""
        own = self.of(group)
        return int(own[np.searchsorted(own, min(width, self.sizes[group]))])

    @property
    def note(self) -> str | None:
        """What the user should know where the rule gave way."""
        if self.halvings == 0:
            return None
        return (
            f"no widths that the rule {self.rule!r} likes meet the budget: widths are multiples of at most "
            f"{max(self.steps, default=1)} now, and some of them may be slow"
        )

    def finer(self) -> "Widths | None":
        """Half the steps and floors, or every width where some were chosen; None where that adds nothing."""
        if self.strict or (not self.chosen and max((*self.steps, *self.floors), default=1) <= 1):
            return None
        steps = self.steps if self.chosen else tuple(max(1, step // 2) for step in self.steps)
        floors = tuple(floor // 2 for floor in self.floors)
        return replace(self, steps=steps, floors=floors, chosen={}, halvings=self.halvings + 1)
