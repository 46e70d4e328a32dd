"""The allocation problem as plain arrays, without the widths and budgets that cannot matter. Nothing is solved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocation.problem import AllocationProblem, Budget
from onnxprune.allocation.table import CostTable
from onnxprune.core.scores import monotone


@dataclass(frozen=True, slots=True)
class NormalForm:
    """The allocation problem as arrays: choose an index `i_g` into `widths[g]` for every group `g`.

    Minimise `sum_g damage[g][i_g]` subject to `sum_g alone[b][g][i_g] + sum_p (product[b, p] k_g(p) k_h(p)
    + tables[b, p][i_g(p), i_h(p)]) <= 1` for every budget row `b`.

    Attributes:
        widths: `G` ascending arrays.
        damage: `G` decreasing arrays of the same lengths; strictly, unless a measured cost shrinks with the width.
        pairs: `P` pairs of groups `(g, h)`, `g < h`, that meet in an operator.
        alone: per budget, `G` arrays of the same lengths.
        product: `(B, P)`.
        tables: `(len(widths[g]), len(widths[h]))` by budget and pair, where a budget's cost is tabulated.
        start: a choice that meets the budgets.
    """

    widths: tuple[np.ndarray, ...]
    damage: tuple[np.ndarray, ...]
    pairs: tuple[tuple[int, int], ...]
    alone: tuple[tuple[np.ndarray, ...], ...]
    product: np.ndarray
    tables: Mapping[tuple[int, int], np.ndarray]
    start: tuple[int, ...]

    def kept(self, choice: Sequence[int]) -> np.ndarray:
        """The widths `(G,)` of a choice."""
        return np.array([widths[i] for widths, i in zip(self.widths, choice, strict=True)], dtype=np.int64)

    def objective(self, choice: Sequence[int]) -> float:
        """Total damage of a choice."""
        return float(sum(damage[i] for damage, i in zip(self.damage, choice, strict=True)))

    def usage(self, choice: Sequence[int]) -> np.ndarray:
        """The share of each budget that a choice uses, `(B,)`; a budget holds where it is at most 1."""
        k = self.kept(choice).astype(np.float64)
        products = np.array([k[g] * k[h] for g, h in self.pairs])
        used = self.product @ products.reshape(len(self.pairs))
        used += [sum(values[i] for values, i in zip(alone, choice, strict=True)) for alone in self.alone]
        for (b, p), table in self.tables.items():
            g, h = self.pairs[p]
            used[b] += table[choice[g], choice[h]]
        return np.asarray(used)


_LEAST_ROOM = 1e-9  # of a budget, in which nothing fits


def normal_form(problem: AllocationProblem) -> NormalForm:
    """Convert a problem to arrays. Its budgets must be reachable.

    Removed are: widths that another width dominates, namely those with the same damage as a narrower one whose costs
    are at most theirs. So units that do no damage go even where the budget would let them stay. Then budgets that hold
    at all that is left are removed.
    """
    start = problem.cheapest()
    widths: list[np.ndarray] = []
    damage: list[np.ndarray] = []
    for g, curve in enumerate(problem.damage):
        allowed = problem.widths(g)
        value = monotone(curve if g in problem.whole | problem.gone else np.append(curve[1:2], curve[1:]))[allowed]
        useful = np.append(True, value[1:] < value[:-1]) | _cheaper(problem, g, allowed, value) | (allowed == start[g])
        widths.append(allowed[useful])
        damage.append(value[useful])
    full = [int(allowed[-1]) for allowed in widths]
    budgets = [budget for budget in problem.budgets if _most(budget, widths, full) > budget.limit]
    pairs = sorted({pair for budget in budgets for pair in _pairs(budget)})
    number = {pair: p for p, pair in enumerate(pairs)}
    product = np.zeros((len(budgets), len(pairs)))
    alone: list[tuple[np.ndarray, ...]] = []
    tables: dict[tuple[int, int], np.ndarray] = {}
    for b, budget in enumerate(budgets):
        # The limit is above the constant, but for rounding: the budget can be met, and does not hold at full width.
        scale = 1 / max(budget.limit - budget.cost.constant, _LEAST_ROOM * max(1.0, abs(budget.limit)))
        costs_alone = [np.zeros(len(allowed_widths)) for allowed_widths in widths]
        cost = budget.cost
        if isinstance(cost, CostTable):
            at = {g: cost.positions(g, widths[g]) for g in cost.groups}
            for g, values in cost.alone.items():
                costs_alone[g] += values[at[g]] * scale
            for pair, values in cost.pairs.items():
                tables[b, number[pair]] = values[np.ix_(at[pair[0]], at[pair[1]])] * scale
        else:
            for g, value in cost.linear.items():
                costs_alone[g] += value * scale * widths[g]
            for (g, h), value in cost.quadratic.items():
                if g == h:
                    costs_alone[g] += value * scale * widths[g].astype(np.float64) ** 2
                else:
                    product[b, number[g, h]] = value * scale
        alone.append(tuple(costs_alone))
    first = tuple(int(np.searchsorted(costs_alone, kept)) for costs_alone, kept in zip(widths, start, strict=True))
    return NormalForm(tuple(widths), tuple(damage), tuple(pairs), tuple(alone), product, tables, first)


def _most(budget: Budget, widths: Sequence[np.ndarray], full: Sequence[int]) -> float:
    """The most that a cost can be: that of the full widths where it is counted, a bound where it is measured."""
    cost = budget.cost
    if not isinstance(cost, CostTable):
        return cost(full)
    at = {g: cost.positions(g, widths[g]) for g in cost.groups}
    parts = [float(values[at[g]].max()) for g, values in cost.alone.items()]
    parts += [float(values[np.ix_(at[g], at[h])].max()) for (g, h), values in cost.pairs.items()]
    return cost.constant + sum(parts)


def _cheaper(problem: AllocationProblem, group: int, widths: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Whether a measured cost is less at a width than at all narrower ones of equal damage, for some partner."""
    cheaper = np.zeros(len(widths), bool)
    first = np.searchsorted(-damage, -damage)  # the narrowest width of the same damage
    for budget in problem.budgets:
        if not isinstance(budget.cost, CostTable) or group not in budget.cost.groups:
            continue
        at = budget.cost.positions(group, widths)
        own = budget.cost.alone.get(group, np.zeros(int(at.max()) + 1))[at][:, None]
        parts = [own, *(own + each[at] for (g, _), each in budget.cost.pairs.items() if g == group)]
        parts += [own + each.T[at] for (_, h), each in budget.cost.pairs.items() if h == group]
        for costs in parts:
            for i in np.flatnonzero(first < np.arange(len(widths))):
                cheaper[i] |= bool((costs[i] < costs[first[i] : i].min(axis=0)).any())
    return cheaper


def _pairs(budget: Budget) -> list[tuple[int, int]]:
    cost = budget.cost
    return list(cost.pairs) if isinstance(cost, CostTable) else [pair for pair in cost.quadratic if pair[0] != pair[1]]
