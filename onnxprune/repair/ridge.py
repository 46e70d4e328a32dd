"""Ridge regression for a correction of a layer's weights, which ignores errors that a following ReLU or Clip hides.

Given rows `X` and residuals `D`, a correction `(dW, db)` minimises `|X dW + db - D|^2 + ridge * |dW|^2`: the weights
are drawn towards those they start from. Where a bounded activation follows, values of the target beyond a bound only
ask the prediction to be beyond it too; that convex one-sided loss is minimised by majorisation, one linear solve per
step with the same matrix (in the spirit of Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", 2015, which solves for a nonlinear response by alternation).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np

_BATCHED = 64  # columns up to which matrices are inverted together
_PIECE = 2048  # rows worked on at a time, at most
_PIECE_ELEMENTS = 1 << 22
_HELD_BYTES = 1 << 26  # of centred columns that are kept while a layer is fitted


@dataclass(frozen=True, slots=True)
class Fit:
    """The data to which one layer is fitted: inputs, present values and wanted values.

    Attributes:
        columns: `(groups, R, K)` inputs as the pruned network makes them.
        current: `(R, C)` values at the fit target now.
        target: `(R, C)` values that the original has there.
        slope: `(C,)` change at the fit target per change of the layer's output; channels with 0 cannot be corrected.
        bounds: values beyond these are all the same.
        has_bias: whether the correction has an intercept.
    """

    columns: np.ndarray
    current: np.ndarray
    target: np.ndarray
    slope: np.ndarray
    bounds: tuple[float, float]
    has_bias: bool

    def part(self, rows: np.ndarray | slice) -> "Fit":
        """A selection of the rows (a slice shares the memory)."""
        return Fit(self.columns[:, rows], self.current[rows], self.target[rows], self.slope, self.bounds, self.has_bias)

    def pieces(self) -> Iterator["Fit"]:
        """The rows in consecutive pieces that are small enough to work on."""
        groups, _, width = self.columns.shape
        step = max(1, min(_PIECE, _PIECE_ELEMENTS // (groups * width + 2 * self.target.shape[1])))
        for start in range(0, len(self.target), step):
            yield self.part(slice(start, start + step))

    def residual(self, value: np.ndarray) -> np.ndarray:
        """`(R, C)` wanted minus given value, 0 where an activation maps both to the same bound."""
        return residual(self.target, value, self.bounds)


def joined(parts: Sequence[Fit]) -> Fit | None:
    """The rows of several layers that share a weight; None where it does not have the same effect in all of them."""
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        same = part.bounds == first.bounds and part.has_bias == first.has_bias
        if not same or not np.array_equal(part.slope, first.slope):
            return None
    columns = np.concatenate([part.columns for part in parts], axis=1)
    current, target = (np.concatenate([getattr(part, name) for part in parts]) for name in ("current", "target"))
    return Fit(columns, current, target, first.slope, first.bounds, first.has_bias)


def residual(target: np.ndarray, value: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Wanted minus given value, 0 where both are beyond the same bound."""
    # Without `np.where`, which takes many times as long on values of either kind in no order.
    low, high = bounds
    if low == -np.inf and high == np.inf:
        return np.asarray(target - value)
    rest = np.clip(target, low, high) - value
    if low > -np.inf:
        rest -= np.maximum(rest, 0.0) * (target <= low)
    if high < np.inf:
        rest -= np.minimum(rest, 0.0) * (target >= high)
    return np.asarray(rest)


class FitRows:
    """Collects rows batch by batch without holding any of them twice.

    Args:
        most: rows that there can be.
    """

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._whole: Fit | None = None

    def add(self, part: Fit) -> None:
        """Add the rows of one batch."""
        if self._whole is None:
            groups, _, width = part.columns.shape
            room = [np.empty((self._most, values.shape[1]), values.dtype) for values in (part.current, part.target)]
            columns = np.empty((groups, self._most, width), part.columns.dtype)
            self._whole = Fit(columns, room[0], room[1], part.slope, part.bounds, part.has_bias)
        reserved = self._whole.part(slice(self._count, self._count + len(part.target)))
        reserved.columns[:], reserved.current[:], reserved.target[:] = part.columns, part.current, part.target
        self._count += len(part.target)

    def fit(self) -> Fit | None:
        """All rows; None where none were added."""
        return None if self._whole is None else self._whole.part(slice(self._count))


@dataclass(frozen=True, slots=True)
class Correction:
    """A change of a layer: `weight` `(groups, K, C / groups)` is added to its matrix, `bias` `(C,)` to its output.

    The weight has the type of the rows: in double precision it is what takes most memory in a large layer.
    """

    weight: np.ndarray
    bias: np.ndarray

    def change(self, fit: Fit) -> np.ndarray:
        """`(R, C)` the effect of the correction at the fit target."""
        product = np.matmul(fit.columns, self.weight.astype(fit.columns.dtype, copy=False))
        rows = product.transpose(1, 0, 2).reshape(product.shape[1], -1)
        return np.asarray((rows + self.bias.astype(rows.dtype)) * fit.slope.astype(rows.dtype))


def loss(fit: Fit, correction: Correction | None) -> float:
    """Mean squared residual at the fit target."""
    total = 0.0
    for part in fit.pieces():
        value = part.current if correction is None else part.current + correction.change(part)
        total += float(np.sum(np.square(part.residual(value)), dtype=np.float64))
    return total / max(fit.target.size, 1)


class Solver:
    """Solves ridge regressions on the rows of one fit: `(G + ridge * mean(diag G) I)^-1 X' D`, with `G = X' X`.

    Where there are fewer rows than columns, in the dual form `X' (X X' + ridge ...)^-1 D`.
    """

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        groups, rows, width = fit.columns.shape
        self._mean = fit.columns.mean(axis=1, dtype=np.float64) if fit.has_bias else np.zeros((groups, width))
        self._dual = width > rows
        self._held: list[np.ndarray] | None = None
        if self._dual:
            whole = self._centred(fit).transpose(0, 2, 1)
            self._gram = _gram((whole[:, at : at + _PIECE] for at in range(0, width, _PIECE)), rows)
        else:
            if fit.columns.nbytes <= _HELD_BYTES:
                self._held = [self._centred(part) for part in fit.pieces()]
            self._gram = _gram((columns for _, columns in self._pieces()), width)
        energy = np.trace(self._gram, axis1=1, axis2=2) / width
        self._scale = np.maximum(energy, 1e-30)
        self._inverse: object = None

    def _centred(self, part: Fit) -> np.ndarray:
        """`(groups, R, K)` columns minus their mean over all rows."""
        return part.columns - self._mean[:, None].astype(part.columns.dtype) if part.has_bias else part.columns

    def _pieces(self) -> Iterator[tuple[Fit, np.ndarray]]:
        """The rows in pieces, with their centred columns: made anew each time where they are many."""
        held = map(self._centred, self._fit.pieces()) if self._held is None else self._held
        return zip(self._fit.pieces(), held, strict=True)

    def prepare(self, ridge: float) -> bool:
        """Factorise the matrix for one ridge; False where the ridge is too small for the arithmetic."""
        size = self._gram.shape[1]
        matrix = self._gram + (ridge * self._scale)[:, None, None] * np.eye(size)
        if size <= _BATCHED:
            self._inverse = np.linalg.inv(matrix)
            return True
        from scipy.linalg import LinAlgError, cho_factor

        try:
            self._inverse = [cho_factor(gram, lower=True, overwrite_a=True, check_finite=False) for gram in matrix]
        except LinAlgError:
            return False
        return True

    def project(self, wanted: Callable[[Fit], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Right-hand sides for all ridges (columns times residuals), and the residuals' mean.

        Args:
            wanted: the residuals at the fit target, `(R, C)`, for some of the rows.
        """
        fit, slope = self._fit, self._fit.slope
        groups, rows, width = fit.columns.shape
        divisor = np.where(slope != 0, slope, 1.0)
        total = np.zeros(len(slope))
        right: list[np.ndarray] = []
        products = np.zeros((groups, width, len(slope) // groups))
        pieces = ((part, None) for part in fit.pieces()) if self._dual else self._pieces()
        for part, columns in pieces:
            values = wanted(part)
            values = values / divisor.astype(values.dtype)
            total += values.sum(axis=0, dtype=np.float64)
            grouped = values.reshape(len(values), groups, -1).transpose(1, 0, 2)
            if columns is None:
                right.append(grouped)
            else:
                # Centred columns sum to 0: the mean of the values does not matter here.
                products += np.matmul(columns.transpose(0, 2, 1), grouped)
        mean = total / rows if fit.has_bias else np.zeros(len(slope))
        return (np.concatenate(right, axis=1) - mean.reshape(groups, 1, -1) if self._dual else products), mean

    def solve(self, projected: tuple[np.ndarray, np.ndarray]) -> Correction:
        """The correction for right-hand sides that `project` made."""
        fit, (right, mean) = self._fit, projected
        groups, usable = len(right), fit.slope != 0
        weight = self._apply(right)
        if self._dual:
            weight = np.matmul(self._centred(fit).transpose(0, 2, 1).astype(np.float64), weight)
        weight *= usable.reshape(groups, 1, -1)
        bias = (mean - np.einsum("gk,gkc->gc", self._mean, weight).reshape(-1)) * usable if fit.has_bias else mean * 0
        return Correction(weight.astype(fit.columns.dtype, copy=False), bias)

    def _apply(self, right: np.ndarray) -> np.ndarray:
        if isinstance(self._inverse, np.ndarray):
            return np.asarray(np.matmul(self._inverse, right))
        from scipy.linalg import cho_solve

        assert isinstance(self._inverse, list)
        return np.stack([cho_solve(f, r, check_finite=False) for f, r in zip(self._inverse, right, strict=True)])


def _gram(pieces: Iterable[np.ndarray], width: int) -> np.ndarray:
    """`(groups, K, K)` Gram matrix of rows `(groups, R, K)`, summed in float64."""
    total: np.ndarray | None = None
    for piece in pieces:
        values = piece.astype(np.float64) if width <= _BATCHED else piece
        product = np.matmul(values.transpose(0, 2, 1), values)
        total = product.astype(np.float64) if total is None else total + product
    assert total is not None
    return total


def one_sided(solver: Solver, start: Correction, steps: int) -> Correction:
    """Improve a correction by minimising the loss that ignores errors beyond the bounds (majorisation).

    The solver must be prepared.

    Each step solves the least squares problem whose target is the prediction itself wherever it needs no change, with
    Nesterov's extrapolation between steps.
    """
    current, momentum = start, 1.0
    ahead = start
    for _ in range(steps):
        following = solver.solve(solver.project(partial(_majorised, ahead)))
        grown = (1 + sqrt(1 + 4 * momentum**2)) / 2
        step = (momentum - 1) / grown
        ahead = Correction(
            following.weight + step * (following.weight - current.weight),
            following.bias + step * (following.bias - current.bias),
        )
        current, momentum = following, grown
    return current


def _majorised(correction: Correction, fit: Fit) -> np.ndarray:
    """`(R, C)` target of the next least squares step, as a change of the present values."""
    change = correction.change(fit)
    return np.asarray(fit.residual(fit.current + change) + change)


def fit_correction(fit: Fit, held_out: Fit, ridges: Sequence[float], steps: int) -> Correction | None:
    """The correction that is best on held-out rows; None where none is better than no correction.

    Held-out rows lose least at one ridge, and more the further a ridge is from it, so that not all are tried: from the
    lower third on, as long as the loss falls.

    Args:
        fit: rows to fit.
        held_out: rows to choose by.
        ridges: ascending candidates, relative to the mean diagonal of the inputs' second moments.
        steps: steps of the one-sided descent where the fit has bounds.
    """
    solver = Solver(fit)
    projected = solver.project(lambda part: part.target - part.current)

    def solved(at: int) -> tuple[float, Correction | None]:
        """The correction at a ridge with its loss: infinite where there is none, or none that can be solved for."""
        if not 0 <= at < len(ridges) or not solver.prepare(ridges[at]):
            return np.inf, None
        correction = solver.solve(projected)
        return loss(held_out, correction), correction

    start = at = len(ridges) // 3
    least, chosen = solved(at)
    for way in (1, -1):
        while (further := solved(at + way))[0] < least:
            at, (least, chosen) = at + way, further
        if at != start:
            break
    if chosen is None:
        return None
    before = loss(held_out, None)
    best = chosen if least < before else None
    if not np.isfinite(fit.bounds).any():
        return best
    solver.prepare(ridges[at])
    chosen = one_sided(solver, chosen, steps)
    return chosen if loss(held_out, chosen) < min(least, before) else best
