"""Ridge regression of a layer's correction, with a loss that ignores what a following ReLU or Clip hides.

Given rows `X` and residuals `D`, a correction `(dW, db)` minimises `|X dW + db - D|^2 + ridge * |dW|^2`: the weights
are drawn towards those they start from. Where a bounded activation follows, values of the target beyond a bound only
ask the prediction to be beyond it too; that convex one-sided loss is minimised by majorisation, one linear solve per
step with the same matrix (in the spirit of Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", 2015, which solves for a nonlinear response by alternation).
"""

from dataclasses import dataclass

import numpy as np

_BATCHED = 64  # columns up to which matrices are inverted together
_EXACT_ELEMENTS = 1 << 24  # up to this many elements of so narrow rows, products run in float64
_PIECE = 2048


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows of one layer.

    Attributes:
        columns: `(groups, R, K)` inputs as the pruned network makes them.
        current: `(R, C)` values at the fit point now.
        target: `(R, C)` values that the original has there.
        slope: `(C,)` change at the fit point per change of the layer's output; channels with 0 cannot be corrected.
        bounds: values beyond these are all the same.
        has_bias: whether the correction has an intercept.
    """

    columns: np.ndarray
    current: np.ndarray
    target: np.ndarray
    slope: np.ndarray
    bounds: tuple[float, float]
    has_bias: bool

    def part(self, rows: np.ndarray) -> "Fit":
        """Some of the rows."""
        return Fit(self.columns[:, rows], self.current[rows], self.target[rows], self.slope, self.bounds, self.has_bias)

    def residual(self, value: np.ndarray) -> np.ndarray:
        """`(R, C)` what `value` lacks: the difference to the target, and 0 where both are beyond the same bound."""
        low, high = self.bounds
        wanted = self.target
        if low > -np.inf:
            wanted = np.where(wanted <= low, np.minimum(value, low), wanted)
        if high < np.inf:
            wanted = np.where(wanted >= high, np.maximum(value, high), wanted)
        return np.asarray(wanted - value)


def concatenated(parts: list[Fit]) -> Fit:
    """Rows of several batches as one; empties the list, so that arrays are in memory once."""
    first = parts[0]
    columns = np.concatenate([part.columns for part in parts], axis=1)
    current = np.concatenate([part.current for part in parts])
    target = np.concatenate([part.target for part in parts])
    parts.clear()
    return Fit(columns, current, target, first.slope, first.bounds, first.has_bias)


@dataclass(frozen=True, slots=True)
class Correction:
    """`weight` `(groups, K, C / groups)` and `bias` `(C,)` to add to the layer's matrix and output."""

    weight: np.ndarray
    bias: np.ndarray

    def change(self, fit: Fit) -> np.ndarray:
        """`(R, C)` change at the fit point."""
        product = np.matmul(fit.columns, self.weight.astype(fit.columns.dtype))
        rows = product.transpose(1, 0, 2).reshape(product.shape[1], -1)
        return np.asarray((rows + self.bias.astype(rows.dtype)) * fit.slope.astype(rows.dtype))


def loss(fit: Fit, correction: Correction | None) -> float:
    """Mean squared residual at the fit point."""
    value = fit.current if correction is None else fit.current + correction.change(fit)
    return float(np.mean(np.square(fit.residual(value)), dtype=np.float64))


class Solver:
    """`(G + ridge * mean diagonal)^-1` for the rows of one fit, in the smaller of the primal and the dual form."""

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        columns = fit.columns
        groups, rows, width = columns.shape
        self._mean = columns.mean(axis=1, dtype=np.float64) if fit.has_bias else np.zeros((groups, width))
        self._centred = columns - self._mean[:, None].astype(columns.dtype) if fit.has_bias else columns
        self._dual = width > rows
        self._gram = _gram(self._centred.transpose(0, 2, 1) if self._dual else self._centred)
        energy = np.trace(self._gram, axis1=1, axis2=2) / width
        self._scale = np.maximum(energy, 1e-30)
        self._inverse: object = None

    def prepare(self, ridge: float) -> bool:
        """Factorise for a ridge, relative to the mean diagonal; False where it is too small for rounding errors."""
        size = self._gram.shape[1]
        matrix = self._gram + (ridge * self._scale)[:, None, None] * np.eye(size)
        if size <= _BATCHED:
            self._inverse = np.linalg.inv(matrix)
            return True
        from scipy.linalg import LinAlgError, cho_factor

        try:
            self._inverse = [cho_factor(each, lower=True, overwrite_a=True, check_finite=False) for each in matrix]
        except LinAlgError:
            return False
        return True

    def solve(self, residual: np.ndarray) -> Correction:
        """The correction for `(R, C)` residuals at the fit point."""
        fit, slope = self._fit, self._fit.slope
        usable = slope != 0
        wanted = residual / np.where(usable, slope, 1.0).astype(residual.dtype)
        mean = wanted.mean(axis=0, dtype=np.float64) if fit.has_bias else np.zeros(len(slope))
        groups = fit.columns.shape[0]
        right = (wanted - mean.astype(wanted.dtype)) if fit.has_bias else wanted
        right = right.reshape(len(right), groups, -1).transpose(1, 0, 2)
        transposed = self._centred.transpose(0, 2, 1)
        if self._dual:
            weight = np.matmul(transposed.astype(np.float64), self._apply(right.astype(np.float64)))
        else:
            weight = self._apply(np.matmul(transposed, right).astype(np.float64))
        weight = weight * usable.reshape(groups, 1, -1)
        bias = (mean - np.einsum("gk,gkc->gc", self._mean, weight).reshape(-1)) * usable if fit.has_bias else mean * 0
        return Correction(weight, bias)

    def _apply(self, right: np.ndarray) -> np.ndarray:
        if isinstance(self._inverse, np.ndarray):
            return np.asarray(np.matmul(self._inverse, right))
        from scipy.linalg import cho_solve

        assert isinstance(self._inverse, list)
        return np.stack([cho_solve(f, r, check_finite=False) for f, r in zip(self._inverse, right, strict=True)])


def _gram(rows: np.ndarray) -> np.ndarray:
    """`(groups, K, K)` products of `(groups, R, K)` rows, summed in float64 over pieces multiplied as they are."""
    groups, count, width = rows.shape
    total = np.zeros((groups, width, width))
    exact = width <= _BATCHED and groups * width * count <= _EXACT_ELEMENTS
    for start in range(0, count, _PIECE):
        piece = rows[:, start : start + _PIECE]
        piece = piece.astype(np.float64) if exact else piece
        total += np.matmul(piece.transpose(0, 2, 1), piece)
    return total


def one_sided(fit: Fit, solver: Solver, start: Correction, steps: int) -> Correction:
    """Descend on the loss that ignores what lies beyond the bounds; the solver is prepared.

    Each step solves the least squares problem whose target is the prediction itself wherever it needs no change, with
    Nesterov's extrapolation between steps.
    """
    current, momentum = start, 1.0
    ahead = start
    for _ in range(steps):
        value = fit.current + ahead.change(fit)
        following = solver.solve(fit.residual(value) + (value - fit.current))
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        step = (momentum - 1) / grown
        ahead = Correction(
            following.weight + step * (following.weight - current.weight),
            following.bias + step * (following.bias - current.bias),
        )
        current, momentum = following, grown
    return current


def fit_correction(fit: Fit, held_out: Fit, ridges: tuple[float, ...], steps: int) -> Correction | None:
    """The correction that does best on held-out rows; None where none improves on no change.

    Args:
        fit: rows to fit.
        held_out: rows to choose by.
        ridges: candidates, relative to the mean diagonal of the inputs' second moments.
        steps: steps of the one-sided descent where the fit has bounds.
    """
    best, least = None, loss(held_out, None)
    solver = Solver(fit)
    chosen = None
    for ridge in ridges:
        if not solver.prepare(ridge):
            continue
        found = solver.solve(fit.target - fit.current)
        if (reached := loss(held_out, found)) < least or chosen is None:
            chosen = (ridge, found)
            if reached < least:
                best, least = found, reached
    if chosen is None or not np.isfinite(fit.bounds).any():
        return best
    solver.prepare(chosen[0])
    found = one_sided(fit, solver, chosen[1], steps)
    return found if loss(held_out, found) < least else best
