"""The affine form of the paper's program: logits as affine functions of all scores, from one backward pass per class.

With bounds from a box of half-width epsilon around an image, in the limit of epsilon to 0, `U+ = max(a, 0)`: every gate
but those at zero is fixed, and with fixed gates the logits are affine in the scores,

    z(s) = z(1) + G (s - 1),    G[m, k, u] = sum over tensors and positions of unit u of dz_k/dh * h    (image m).

So one backward pass a class gives the whole program: the paper's objective over the scores alone, with exact
log-sum-exp and no rows for gates. On networks without open gates this is the joint program without the rows that keep
units that are off from falling below their value and units that are on from rising above it. Max pooling keeps the
route that the image takes, and smooth activations are linearised there: both are approximations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from onnxprune.calibration.dataset import Dataset
from onnxprune.core.engine import Engine
from onnxprune.core.errors import ModelError
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.importance.oamip.affine import Builder
from onnxprune.importance.oamip.compile import ScorePoints
from onnxprune.importance.oamip.program import OamipProgram, assemble, one_hot, start_columns
from onnxprune.runtime.session import open_session, runtime_errors
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.gradient import SEED, gradient_models

MOST_CLASSES = 32
"""Classes whose logits are linearised for one image; the others keep the logits of the original."""
_BATCH = 32
_TOGETHER = 20_000_000  # scored positions of a batch, whose values and gates are kept for the backward passes


@dataclass(frozen=True, slots=True)
class Linearised:
    """Logits of the images, and how much every unit adds to them.

    Attributes:
        logits: `(M, C)` of the classes that are looked at.
        classes: `(M, C)` their numbers.
        rest: `(M,)` log-sum-exp of all other logits; -inf where there are none.
        gains: `(M, C, units)` what unit `u` adds: `G`.
    """

    logits: np.ndarray
    classes: np.ndarray
    rest: np.ndarray
    gains: np.ndarray

    def contribution(self) -> np.ndarray:
        """`(M, C, units)` what units add to the logits, without what all classes share (softmax ignores it)."""
        return np.asarray(self.gains - self.gains.mean(axis=1, keepdims=True))


def linearise(
    analysis: Analysis, data: Dataset, logits: str, points: ScorePoints, labels: np.ndarray, engine: Engine
) -> Linearised:
    """Compute logits and their derivatives in the scores, by one backward pass per class.

    Args:
        analysis: the model's, at the data's sizes.
        data: the images.
        logits: name of the tensor of logits.
        points: where scores apply.
        labels: `(M,)` a class of each image that is among those looked at.
        engine: threads and execution provider.

    Raises:
        ModelError: an operator has no backward rule, or a scored tensor has its rows on another axis than the first.
    """
    places = {tensor: _channels(analysis, tensor, units) for tensor, units in points.items()}
    gradients = gradient_models(analysis, logits, {tensor: axis for tensor, (axis, _) in places.items()})
    positions = sum(map(len, points.values()))
    whole = open_session(analysis.model, [logits], engine=engine)
    values = np.concatenate([_run(whole, analysis, feed, [logits])[0] for feed in _feeds(analysis, data, positions)])
    flat = values.reshape(len(values), -1).astype(np.float64)
    classes = _most_likely(flat, labels)
    chosen = np.take_along_axis(flat, classes, axis=1)
    gains = np.zeros((*classes.shape, analysis.units), np.float32)
    forward, backward = open_session(gradients.forward, engine=engine), None
    names = list(gradients.outputs.values())
    start = 0
    for feed in _feeds(analysis, data, positions):
        count = len(next(iter(feed.values())))
        given = list(gradients.kept)
        kept = dict(zip(given, _run(forward, analysis, feed, given) if given else (), strict=True))
        backward = backward or open_session(gradients.backward(kept), engine=engine)
        for position in range(classes.shape[1]):
            direction = np.zeros((count, flat.shape[1]), np.float32)
            direction[np.arange(count), classes[start : start + count, position]] = 1.0
            shaped = direction.reshape(count, *values.shape[1:])
            computed = _run(backward, analysis, {**kept, SEED: shaped}, names)
            for tensor, products in zip(gradients.outputs, computed, strict=True):
                units = places[tensor][1]
                if products.size != count * len(units):
                    raise ModelError(
                        f"{analysis.name}: {tensor!r} does not have the rows on its first axis, which the affine form "
                        "of --importance oamip needs; use another --importance"
                    )
                np.add.at(gains[start : start + count, position].T, units, products.reshape(count, -1).T)
        start += count
    gains[:, :, 0] = 0.0  # channels that cannot go
    return Linearised(chosen, classes, _rest(flat, classes), gains)


def _channels(analysis: Analysis, tensor: str, units: np.ndarray) -> tuple[int, np.ndarray]:
    """The channel axis of a scored tensor, and the unit of each channel (0 where no score applies)."""
    scored = set(units[units > 0].tolist())
    for axis, ids in enumerate(analysis.labels[tensor]):
        if ids is not None and scored & set(ids.tolist()):
            return axis, np.where(np.isin(ids, list(scored)), ids, 0)
    raise ValueError(f"{tensor!r} has no scored axis")


def _feeds(analysis: Analysis, data: Dataset, positions: int) -> Iterator[Mapping[str, np.ndarray]]:
    fixed = fixed_batch(input_specs(analysis.model))
    return data.batches(max(1, min(_BATCH, _TOGETHER // max(1, positions))) if fixed is None else 1)


def _run(session: object, analysis: Analysis, feed: Mapping[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    with runtime_errors(f"{analysis.name}: onnxruntime cannot run the model"):
        values: list[np.ndarray] = session.run(names, dict(feed))  # type: ignore[attr-defined]
    return values


def _most_likely(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(M, C)` the label and the classes with the next largest logits; all classes where there are few."""
    if logits.shape[1] <= MOST_CLASSES:
        return np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
    ranked = logits.copy()
    np.put_along_axis(ranked, labels[:, None], np.inf, axis=1)
    return np.argsort(-ranked, axis=1, kind="stable")[:, :MOST_CLASSES]


def _rest(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    others = logits.copy()
    np.put_along_axis(others, classes, -np.inf, axis=1)
    top = others.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.log(np.sum(np.exp(others - np.where(np.isfinite(top), top, 0.0)[:, None]), axis=1))
    return np.where(np.isfinite(top), top + total, -np.inf)


def affine_program(
    linear: Linearised,
    labels: np.ndarray | None,
    layers: tuple[np.ndarray, ...],
    lambda_: float,
    areas: Sequence[float] | None = None,
) -> OamipProgram:
    """The program whose only unknowns are the scores.

    Args:
        linear: logits and gains.
        labels: `(M,)` classes; None takes the original's own softmax as the target, so that the loss is the
            divergence from it (up to a constant).
        layers: per layer, units whose scores are columns.
        lambda_: weight of the loss.
        areas: per layer, the neurons that a unit counts for in the sparsity term; 1 by default.
    """
    builder = Builder()
    columns = start_columns(builder, layers, len(linear.logits), areas)
    units, scores = np.concatenate(layers), np.concatenate(columns.scores)
    logits, targets = [], []
    for image, gains in enumerate(linear.gains):
        matrix = gains[:, units].astype(np.float64)
        constant = linear.logits[image] - matrix.sum(axis=1)
        wide = np.zeros((len(matrix) + 1, builder.columns))
        wide[:-1, scores] = matrix
        # The other classes as one, with a logit that no score changes; of no weight where there are none.
        rest = linear.rest[image]
        full = np.append(constant, rest if np.isfinite(rest) else constant.min() - 1e3)
        logits.append((full, csr_array(wide)))
        targets.append(_target(linear, image, None if labels is None else int(labels[image])))
    return assemble(builder, columns, logits, targets, lambda_)


def _target(linear: Linearised, image: int, label: int | None) -> np.ndarray:
    logits = np.append(linear.logits[image], linear.rest[image])
    if label is not None:
        return one_hot(int(np.flatnonzero(linear.classes[image] == label)[0]), len(logits))
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def removal_order(contribution: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The order in which the units of a group go, by what they add to the logits and by their scores.

    With `R` removed and `g` the contributions, the next unit is the one of the least

        |sum_R g + g_u|^2 - |sum_R g|^2 + s_u |g_u|^2      (means over images):

    contributions that cancel each other go together, and of equal ones those with the least score. Scores alone would
    leave the order to chance, as many are 0 or 1.

    Args:
        contribution: `(M, C, n)` of the group's units.
        scores: `(n,)` in [0, 1].

    Returns:
        `(n,)` the first is removed first.
    """
    flat = contribution.reshape(-1, contribution.shape[2]).astype(np.float64)
    products = flat.T @ flat / len(contribution)
    alone = np.diagonal(products)
    cost = (1.0 + scores) * alone
    order = np.zeros(len(scores), np.int64)
    for place in range(len(order)):
        order[place] = np.argmin(cost)
        cost = cost + 2.0 * products[order[place]]
        cost[order[: place + 1]] = np.inf
    return order


def removal_damage(contribution: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The damage of removing the units of a group one after the other, from what they add to the logits.

    `damage[k] = mean_m |sum of the contributions of the n - k units removed first|^2`, in squared logits, and not less
    than for any larger `k`.

    Args:
        contribution: `(M, C, n)` of the group's units.
        order: `(n,)` the first is removed first.

    Returns:
        `(n + 1,)` with 0 at `k = n`.
    """
    removed = np.cumsum(contribution[:, :, order].astype(np.float64), axis=2)
    squares = np.mean(np.sum(removed**2, axis=1), axis=0)
    return np.asarray(np.concatenate([[0.0], np.maximum.accumulate(squares)])[::-1].copy())
