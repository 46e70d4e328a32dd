"""The widths that groups may have: any, multiples of a step, or those that were measured to be fast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.allocation.work import KernelWork


@dataclass(frozen=True, slots=True)
class Widths:
    """The allowed widths of each group. Keeping all units is always allowed.

    Attributes:
        sizes: units per group.
        steps: a width is a multiple of its group's step.
        floors: the least multiples; 0 means one step.
        rule: what chose them, for plan and report.
        chosen: ascending widths by group, where single ones were chosen; steps hold beside them.
        strict: whether the steps hold whatever it costs; where not, `finer` gives way.
        halvings: how often the steps were halved.
        work: of the kernels that the rule is for, where it is known.
        alone: steps and floors of a rule that looks at each group alone: what is finer first.
        bound: groups that do not go as a whole.
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    floors: tuple[int, ...]
    rule: str
    chosen: Mapping[int, np.ndarray] = field(default_factory=dict)
    strict: bool = False
    halvings: int = 0
    work: KernelWork | None = None
    alone: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    bound: frozenset[int] = frozenset()

    @classmethod
    def multiples(cls, sizes: Sequence[int], step: int = 1) -> "Widths":
        """Multiples of one number, as the option `--round-to N` asks for."""
        rule = f"multiples of {step}" if step > 1 else "any"
        return cls(tuple(sizes), (step,) * len(sizes), (0,) * len(sizes), rule, strict=True)

    def of(self, group: int) -> np.ndarray:
        """The allowed widths of a group, ascending; the last is its number of units."""
        size, step = self.sizes[group], self.steps[group]
        multiples = np.arange(max(step, self.floors[group]), size, step)
        if group in self.chosen:
            multiples = np.intersect1d(multiples, self.chosen[group])
        return np.append(multiples, size)

    def at_least(self, group: int, width: int) -> int:
        """The smallest allowed width of a group that is at least `width`."""
        allowed = self.of(group)
        return int(allowed[np.searchsorted(allowed, min(width, self.sizes[group]))])

    @property
    def note(self) -> str | None:
        """A note for the user where less suitable widths had to be allowed to meet the budget; else None."""
        if self.halvings == 0:
            return None
        return (
            f"no widths that the rule {self.rule!r} likes meet the budget: widths are multiples of at most "
            f"{max(self.steps, default=1)} now, and some of them may be slow"
        )

    def finer(self) -> "Widths | None":
        """A larger choice: each group by itself, then half the steps, or none that was measured; None for the last."""
        if self.strict or (not self.chosen and max((*self.steps, *self.floors), default=1) <= 1):
            return None
        if self.alone is not None:
            steps, floors = self.alone
        else:
            steps = self.steps if self.chosen else tuple(max(1, step // 2) for step in self.steps)
            floors = tuple(floor // 2 for floor in self.floors)
        finer = replace(self, steps=steps, floors=floors, alone=None, bound=frozenset())
        return replace(finer, chosen={}, halvings=self.halvings + 1, work=None)
