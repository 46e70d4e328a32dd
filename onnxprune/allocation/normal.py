"""An allocation problem in normal form: plain arrays, without choices that cannot matter. No solving."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocation.problem import AllocationProblem, monotone


@dataclass(frozen=True, slots=True)
class NormalForm:
    """Choose an index `i_g` into `widths[g]` for every group, with `k_g = widths[g][i_g]`.

    Minimise `sum_g damage[g][i_g]` subject to `sum_g linear[b, g] k_g + square[b, g] k_g^2 + sum_p product[b, p]
    k_g(p) k_h(p) <= 1` for every budget row `b`.

    Attributes:
        widths: `G` ascending arrays.
        damage: `G` strictly decreasing arrays of the same lengths.
        pairs: `P` pairs of groups `(g, h)`, `g < h`, that meet in an operator.
        linear: `(B, G)`.
        square: `(B, G)`.
        product: `(B, P)`.
    """

    widths: tuple[np.ndarray, ...]
    damage: tuple[np.ndarray, ...]
    pairs: tuple[tuple[int, int], ...]
    linear: np.ndarray
    square: np.ndarray
    product: np.ndarray

    @property
    def smallest(self) -> tuple[int, ...]:
        """The choice that costs least: index 0 everywhere."""
        return (0,) * len(self.widths)

    def kept(self, choice: Sequence[int]) -> np.ndarray:
        """`(G,)` widths of a choice."""
        return np.array([widths[i] for widths, i in zip(self.widths, choice, strict=True)], dtype=np.int64)

    def objective(self, choice: Sequence[int]) -> float:
        """Summed damage of a choice."""
        return float(sum(damage[i] for damage, i in zip(self.damage, choice, strict=True)))

    def usage(self, choice: Sequence[int]) -> np.ndarray:
        """`(B,)` left side of each budget row."""
        k = self.kept(choice).astype(np.float64)
        products = np.array([k[g] * k[h] for g, h in self.pairs])
        return np.asarray(self.linear @ k + self.square @ k**2 + self.product @ products.reshape(len(self.pairs)))


def normal_form(problem: AllocationProblem) -> NormalForm:
    """Bring a problem whose budgets are reachable into normal form.

    Removed are: widths that another width dominates, namely those
    with the same damage as a narrower one (every cost of the narrower one is at most theirs). So units that do no
    damage go even where the budget would let them stay. Then budgets that hold even at the widest of what is left are removed.
    """
    widths: list[np.ndarray] = []
    damage: list[np.ndarray] = []
    for g, curve in enumerate(problem.damage):
        allowed = problem.widths(g)
        value = monotone(curve)[allowed]
        useful = np.append(True, value[1:] < value[:-1])
        widths.append(allowed[useful])
        damage.append(value[useful])
    full = [int(allowed[-1]) for allowed in widths]
    budgets = [budget for budget in problem.budgets if budget.cost(full) > budget.limit]
    pairs = sorted({pair for budget in budgets for pair in budget.cost.quadratic if pair[0] != pair[1]})
    linear, square = np.zeros((len(budgets), len(full))), np.zeros((len(budgets), len(full)))
    product = np.zeros((len(budgets), len(pairs)))
    for b, budget in enumerate(budgets):
        # The limit is above the constant: at least one width is in the cost, and no width is 0.
        scale = 1 / (budget.limit - budget.cost.constant)
        for g, value in budget.cost.linear.items():
            linear[b, g] = value * scale
        for (g, h), value in budget.cost.quadratic.items():
            if g == h:
                square[b, g] = value * scale
            else:
                product[b, pairs.index((g, h))] = value * scale
    return NormalForm(tuple(widths), tuple(damage), tuple(pairs), linear, square, product)
