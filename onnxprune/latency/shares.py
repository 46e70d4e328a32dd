"""What a run takes as a share of the original's, by the widths: kernel times, corrected by whole models.

Kernels do not show everything: what is called between them, shape arithmetic that onnxruntime folds away once a width
is fixed, fusions that another width allows. So the share is a linear model,

    share(k) = 1 - a S(k) - sum_g (b_g [k_g < n_g] + c_g (1 - k_g / n_g) + d_g [k_g = 0]),

where `S(k)` is the share of the kernels' time that is saved. The coefficients start at `a = 1` and 0, and follow the
models that were timed beside the original (Bayesian linear regression with independent normal priors: Bishop, Pattern
Recognition and Machine Learning, 3.3). Where kernels tell the time well, little is left to the other terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.allocation.table import CostTable

# Standard deviations, as shares of the original's time: how far the scale may be off, what all groups together may
# hide of each kind, and how far a model that was timed may be from any such sum.
_SCALE, _HIDDEN, _NOISE = 0.5, 0.2, 0.005


@dataclass(slots=True)
class Shares:
    """Predicts shares of the original's time.

    Attributes:
        full: number of units of each group.
        full_us: summed times of the original's kernels, in microseconds.
        timed: what was learned from: shares by widths, with the summed times of their kernels.
    """

    full: tuple[int, ...]
    full_us: float
    timed: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)

    def learn(self, kept: tuple[int, ...], kernels_us: float, share: float) -> None:
        """Take in a model that was timed beside the original.

        Args:
            kept: width per group.
            kernels_us: summed times of its kernels.
            share: its time, as a share of the original's.
        """
        self.timed[kept] = kernels_us, share

    def saved(self, kernels_us: float) -> float:
        """The share of the kernels' time that is saved; 0 where no kernel is timed.

        Args:
            kernels_us: summed times of a model's kernels.
        """
        return 1 - kernels_us / self.full_us if self.full_us > 0 else 0.0

    def cost(self, table: CostTable, last: tuple[int, ...]) -> CostTable:
        """The share at any widths, as a cost for the allocation program. It is exact at the last model.

        Args:
            table: summed times of kernels, in microseconds.
            last: widths of a model that was learned from.
        """
        scale, *hidden = self._coefficients().tolist()
        slope = scale / self.full_us if self.full_us > 0 else 0.0
        alone = {g: slope * values for g, values in table.alone.items()}
        for g, (units, coefficients) in enumerate(zip(self.full, np.reshape(hidden, (-1, 3)), strict=True)):
            saved = _hidden(np.asarray(table.widths[g]), units) @ coefficients
            alone[g] = alone.get(g, np.zeros(len(saved))) - saved
        pairs = {pair: slope * values for pair, values in table.pairs.items()}
        cost = CostTable(table.widths, slope * table.constant, alone, pairs)
        return cost.affine(1.0, self.timed[last][1] - cost(last))

    def _coefficients(self) -> np.ndarray:
        """`(1 + 3 groups,)` the scale of kernel times, then what each group hides: see the module."""
        groups = len(self.full)
        mean = np.array([1.0] + [0.0] * (3 * groups))
        variances = np.array([_SCALE**2] + [_HIDDEN**2 / max(1, groups)] * (3 * groups))
        features = np.array([self._features(kept, kernels_us) for kept, (kernels_us, _) in self.timed.items()])
        saved = np.array([1 - share for _, share in self.timed.values()])
        covariance = (features * variances) @ features.T + _NOISE**2 * np.eye(len(saved))
        return np.asarray(mean + variances * (features.T @ np.linalg.solve(covariance, saved - features @ mean)))

    def _features(self, kept: Sequence[int], kernels_us: float) -> np.ndarray:
        by_group = [_hidden(np.array([k]), units)[0] for k, units in zip(kept, self.full, strict=True)]
        return np.concatenate([[self.saved(kernels_us)], *by_group])


def _hidden(widths: np.ndarray, units: int) -> np.ndarray:
    """`(widths, 3)` what a group may save besides its kernels' time: by any removal, each unit, and the last."""
    return np.stack([widths < units, 1 - widths / units, widths == 0], axis=1).astype(np.float64)
