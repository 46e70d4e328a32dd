"""The allocation problem: groups with damage curves, and budgets on their costs. Data and checks; nothing is solved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.allocation.table import CostTable
from onnxprune.core.errors import BudgetError

_ROUNDING = 1e-9  # of an excess: less is no progress


@dataclass(frozen=True, slots=True)
class CostPolynomial:
    """An exact cost as a polynomial of degree two in the kept widths `k`.

    `cost(k) = constant + sum_g linear[g] k_g + sum_(g<=h) quadratic[g, h] k_g k_h`; key `(g, g)` stands for `k_g^2`.
    A layer's MACs and weights are a constant times kept inputs times kept outputs, so nothing is approximated.

    Attributes:
        constant: what no choice can change.
        linear: coefficient per group, at least 0.
        quadratic: coefficient per pair of groups `g <= h`, at least 0.

    Raises:
        ValueError: a negative or non-finite coefficient, or a pair with `g > h`.
    """

    constant: float = 0.0
    linear: Mapping[int, float] = field(default_factory=dict)
    quadratic: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the coefficients: costs must grow with every width."""
        for key, value in [*self.linear.items(), *self.quadratic.items()]:
            if not 0 <= value < float("inf"):
                raise ValueError(f"coefficient {value} of group {key} in a cost: must be finite and at least 0")
        for g, h in self.quadratic:
            if g > h:
                raise ValueError(f"quadratic coefficient of groups {(g, h)}: write the smaller index first")

    @property
    def groups(self) -> frozenset[int]:
        """Groups that the cost depends on."""
        return frozenset(self.linear) | {g for pair in self.quadratic for g in pair}

    def __call__(self, kept: Sequence[int]) -> float:
        """The cost at the given widths; exact for integer coefficients below 2^53."""
        k = [int(width) for width in kept]
        total = self.constant + sum(value * k[g] for g, value in self.linear.items())
        return float(total + sum(value * k[g] * k[h] for (g, h), value in self.quadratic.items()))

    def along(self, group: int, widths: np.ndarray, kept: Sequence[int]) -> np.ndarray:
        """The part of the cost that one group's width decides, at each of the given widths; the others keep `kept`."""
        k = widths.astype(np.float64)
        cost = self.linear.get(group, 0.0) * k
        for (g, h), value in self.quadratic.items():
            if group in (g, h):
                cost = cost + value * k * (k if g == h else kept[h if group == g else g])
        return np.asarray(cost)


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget `cost(k) <= limit`. Messages call it by its `name`, such as `macs` or `params of layer3.*`."""

    name: str
    cost: CostPolynomial | CostTable
    limit: float


@dataclass(frozen=True, slots=True)
class AllocationProblem:
    """Choose widths `k_g` so that the total damage `sum_g damage[g][k_g]` is least and every budget holds.

    Attributes:
        damage: per group, an array `(n_g + 1,)`: the damage when `k` units are kept, at least 0 and 0 at `k = n_g`.
            Index 0 is read only for groups in `whole`. The curve need not be monotone; see `monotone`.
        budgets: all of them must hold.
        round_to: a kept width is a multiple of this, or `n_g` itself (the only choice where `n_g < round_to`).
        minimum: least width per group; empty means 1 everywhere.
        fixed: groups that keep all their units.
        whole: groups that may lose all their units.
        gone: groups that have lost all their units.
        allowed: ascending widths that a group may be given, by group; any where absent. `n_g` is one of them, and a
            group in a `CostTable` has at most the table's widths.

    Raises:
        ValueError: a curve that is too short, negative, not finite or not 0 at its end; a minimum above its group's
            size; or a group index that does not exist.
    """

    damage: tuple[np.ndarray, ...]
    budgets: tuple[Budget, ...]
    round_to: int = 1
    minimum: tuple[int, ...] = ()
    fixed: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    allowed: Mapping[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes and ranges."""
        groups = len(self.damage)
        for g, curve in enumerate(self.damage):
            read = curve if g in self.whole else curve[1:]
            if curve.ndim != 1 or len(curve) < 2 or not np.all(np.isfinite(read)) or np.any(read < 0):
                raise ValueError(f"damage of group {g}: must be a finite, non-negative array (units + 1,)")
            if curve[-1] != 0:
                raise ValueError(f"damage of group {g}: must be 0 where all units are kept, not {curve[-1]}")
        if self.round_to < 1:
            raise ValueError(f"round_to is {self.round_to}: must be at least 1")
        if self.minimum and len(self.minimum) != groups:
            raise ValueError(f"minimum has {len(self.minimum)} entries for {groups} groups")
        for g, least in enumerate(self.minimum):
            if least > self.units(g):
                raise ValueError(f"minimum of group {g} is {least}: it has only {self.units(g)} units")
        used = set(self.fixed)
        for budget in self.budgets:
            used |= budget.cost.groups
        if used and not (min(used) >= 0 and max(used) < groups):
            raise ValueError(f"a budget or fixed group refers to a group outside 0..{groups - 1}")

    def units(self, group: int) -> int:
        """Number of units of a group before pruning."""
        return len(self.damage[group]) - 1

    def widths(self, group: int) -> np.ndarray:
        """The widths that a group may have, ascending; never empty, and the last is `n_g`."""
        units = self.units(group)
        if group in self.gone:
            return np.array([0])
        if group in self.fixed:
            return np.array([units])
        least = max(1, self.minimum[group] if self.minimum else 1)
        multiples = np.arange(self.round_to, units, self.round_to)
        if group in self.allowed:
            multiples = np.intersect1d(multiples, self.allowed[group])
        allowed = np.append(multiples[multiples >= least], units)
        return np.insert(allowed, 0, 0) if group in self.whole else allowed

    def cheapest(self) -> tuple[int, ...]:
        """Widths that meet every budget where that is possible: the smallest ones, unless those miss a measured budget.

        Counted costs grow with every width, so that the smallest widths have the least of each. Measured ones need not:
        there one group at a time gets the width with the least excess, or, where that does not help, two of which pairs
        were measured, until none is left or nothing helps. With many such pairs that may miss a way.
        """
        choices = [self.widths(g) for g in range(len(self.damage))]
        kept = [int(widths[0]) for widths in choices]
        measured = sorted(
            {g for budget in self.budgets if isinstance(budget.cost, CostTable) for g in budget.cost.groups}
        )
        excess = self._excess(kept)
        while excess > 0 and measured:
            before = excess
            for g in measured:
                kept[g] = int(choices[g][np.argmin(self._excesses(g, kept))])
            excess = self._excess(kept)
            if excess < before:
                continue
            together = self._pair_moved(kept, excess)
            if together is None:
                break
            kept = together
            excess = self._excess(kept)
        return tuple(kept)

    def _pair_moved(self, kept: Sequence[int], excess: float) -> list[int] | None:
        """Widths with less excess that differ in one measured pair of groups; None where there are none."""
        tables = [budget.cost for budget in self.budgets if isinstance(budget.cost, CostTable)]
        for g, h in sorted({pair for table in tables for pair in table.pairs}):
            for width in self.widths(h).tolist():
                moved = [*kept]
                moved[h] = width
                moved[g] = int(self.widths(g)[np.argmin(self._excesses(g, moved))])
                if self._excess(moved) < excess * (1 - _ROUNDING):  # or rounding alone would move it for ever
                    return moved
        return None

    def _excesses(self, g: int, kept: Sequence[int]) -> np.ndarray:
        """The excess for each width of one group, the others as they are."""
        choices = self.widths(g)
        excesses = np.zeros(len(choices))
        for budget in self.budgets:
            own = budget.cost.along(g, choices, kept)
            now = own[np.searchsorted(choices, kept[g])]
            excesses += np.maximum(0.0, _share(budget, budget.cost(kept) - now + own))
        return excesses

    def holds(self, kept: Sequence[int]) -> bool:
        """Whether widths, one a group, meet every budget exactly."""
        return all(budget.cost(kept) <= budget.limit for budget in self.budgets)

    def _excess(self, kept: Sequence[int]) -> float:
        """By how much widths miss the budgets: shares of the limits, summed; 0 where all hold."""
        costs = [(budget, budget.cost(kept)) for budget in self.budgets]
        return sum(max(0.0, float(_share(budget, cost))) for budget, cost in costs if cost > budget.limit)

    def check_reachable(self) -> None:
        """Check that the budgets can be met: the cheapest widths must meet them.

        Raises:
            BudgetError: names each budget that cannot be met, with the least value its cost can take.
        """
        least = self.cheapest()
        missed = [
            f"{budget.name} cannot go below {_plain(budget.cost(least))} (asked for at most {_plain(budget.limit)})"
            for budget in self.budgets
            if budget.cost(least) > budget.limit
        ]
        if missed:
            # Nobody wants fifty multiply-adds.
            meant = [
                f"{each.name}={each.limit:g}%" for each in self.budgets if 1 < each.limit < 100 and each.limit % 1 == 0
            ]
            advice = "raise the target, or, where given, lower --round-to and leave out --keep and --no-branches"
            if meant:
                advice = f"a share is written with its sign ({', '.join(meant)}), or as a number up to 1"
            raise BudgetError(f"budget cannot be met: {'; '.join(missed)}; {advice}")


def _share(budget: Budget, cost: float | np.ndarray) -> float | np.ndarray:
    """By what share of its limit a cost exceeds a budget."""
    return (cost - budget.limit) / max(abs(budget.limit), 1e-30)


@dataclass(frozen=True, slots=True)
class Allocation:
    """The result of an allocation: the widths, and how far they may be from the best ones.

    Attributes:
        kept: width per group.
        objective: sum of the (monotone) damages at `kept`.
        bound: no choice of *any* allowed widths that meets the budgets has an objective below this.
        gap: `(objective - bound) / objective`; 0 where the objective is 0.
        status: `optimal` where the gap is at most the one asked for, else `limit` (nodes, time or grid size ran out).
        seconds: wall time.
        nodes: branch-and-bound nodes, over all programs solved.
        predicted: cost per budget, in the problem's order; each is at most its limit.
    """

    kept: tuple[int, ...]
    objective: float
    bound: float
    gap: float
    status: str
    seconds: float
    nodes: int
    predicted: tuple[float, ...]


def _plain(value: float) -> str:
    """A number as text; whole numbers without exponent."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"
