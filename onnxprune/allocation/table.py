"""A cost that is known only at certain widths, such as a measured time: tables and their look-up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class CostTable:
    """A cost given by tables: one per group and one per pair of groups that interact.

    `cost(k) = constant + sum_g alone[g][i_g] + sum_(g<h) pairs[g, h][i_g, i_h]`, where `i_g` is the position of `k_g`
    in `widths[g]`. Measured costs need not grow with every width.

    Attributes:
        widths: ascending widths per group.
        constant: what no choice can change.
        alone: `(len(widths[g]),)` per group.
        pairs: `(len(widths[g]), len(widths[h]))` per pair of groups `g < h`.

    Raises:
        ValueError: an array that does not fit the widths, a value that is not finite, or a pair with `g >= h`.
    """

    widths: Mapping[int, np.ndarray]
    constant: float = 0.0
    alone: Mapping[int, np.ndarray] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes and values."""
        tables: list[tuple[tuple[int, ...], np.ndarray]] = [((g,), values) for g, values in self.alone.items()]
        for groups, values in [*tables, *self.pairs.items()]:
            if values.shape != tuple(len(self.widths[g]) for g in groups) or not np.all(np.isfinite(values)):
                raise ValueError(f"cost table of groups {groups}: must hold one finite number for each width")
        if any(g >= h for g, h in self.pairs):
            raise ValueError("cost table: write the smaller group of a pair first")

    @property
    def groups(self) -> frozenset[int]:
        """Groups that the cost depends on."""
        return frozenset(self.alone) | {g for pair in self.pairs for g in pair}

    def __call__(self, kept: Sequence[int]) -> float:
        """The cost at the given widths.

        Raises:
            ValueError: a width that is not in the table.
        """
        at = {g: int(self.positions(g, np.array([kept[g]]))[0]) for g in self.groups}
        total = self.constant + sum(values[at[g]] for g, values in self.alone.items())
        return float(total + sum(values[at[g], at[h]] for (g, h), values in self.pairs.items()))

    def along(self, group: int, widths: np.ndarray, kept: Sequence[int]) -> np.ndarray:
        """The part of the cost that one group's width decides, at each of the given widths; the others keep `kept`.

        Raises:
            ValueError: a width is not in the table.
        """
        at = self.positions(group, widths)
        cost = np.asarray(self.alone[group][at] if group in self.alone else np.zeros(len(at)), np.float64)
        for (g, h), values in self.pairs.items():
            if group in (g, h):
                other = h if group == g else g
                column = int(self.positions(other, np.array([kept[other]]))[0])
                cost = cost + (values[at, column] if group == g else values[column, at])
        return cost

    def affine(self, factor: float, offset: float = 0.0) -> "CostTable":
        """The cost multiplied by a factor, plus an offset."""
        return CostTable(
            self.widths,
            self.constant * factor + offset,
            {g: values * factor for g, values in self.alone.items()},
            {pair: values * factor for pair, values in self.pairs.items()},
        )

    def positions(self, group: int, widths: np.ndarray) -> np.ndarray:
        """Index of each of the given widths in the group's table.

        Raises:
            ValueError: a width is not in the table.
        """
        tabled = self.widths[group]
        nearest = np.minimum(np.searchsorted(tabled, widths), len(tabled) - 1)
        if not np.array_equal(tabled[nearest], widths):
            raise ValueError(
                f"cost table of group {group} holds widths {tabled.tolist()}, not all of {widths.tolist()}"
            )
        return nearest
