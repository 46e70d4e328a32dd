"""Refits the layers that scores are read from, by the divergence of the scores themselves.

Least squares on a layer's output counts an error of a score alike whether it decides something or not: where nearly all
positions are background, fits shrink what is confident. Behind a sigmoid or a softmax the divergence from the
original's probabilities `p` is convex in the last layer's weights, up to a constant

    sum_c log(1 + exp z_c) - p_c z_c    or    log sum_c exp z_c - sum_c p_c z_c,    z = x W + b,

and is minimised with a ridge on the change of the weights, which held-out rows choose.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from onnxprune.calibration.layer_matrix import Positions, input_rows, output_rows
from onnxprune.calibration.replay import Feeds, Replay
from onnxprune.core.execution import ONE_THREAD
from onnxprune.graph.model import Model
from onnxprune.outputs.meaning import Meaning, Part
from onnxprune.outputs.origins import Origin, origins
from onnxprune.repair.change import can_refit, corrected
from onnxprune.repair.ridge import Correction
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.fit_targets import FitTarget

_OPERATIONS = 1e9  # multiply-adds of a product of rows and weights; with more, rows are left out
_SMALL = 5e7  # multiply-adds of a step, below which threads only wait for each other
_CACHED = 1 << 18  # numbers of rows that are read from a cache, and may be double ones
_RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
_STEPS = 40
_LEAST_GAIN = 1e-3  # of the held-out loss' distance from the least possible
# Standard errors by which held-out rows must gain. Of classes a few rows lose far more than the others, and that their
# mean gains is chance as a rule; maps of probabilities have thousands of positions in each row.
_SURE = {"classes": 2.0, "probabilities": 0.0}
_NEAR = 1e-2


@dataclass(frozen=True, slots=True)
class ScoreRows:
    """Rows of a last layer.

    Attributes:
        columns: `(n, K)` what its weight multiplies.
        now: `(n, C)` logits at present.
        wanted: `(n, C)` the original's probabilities.
        weights: `(n,)` how much each row counts; those of one calibration row add up to about its number of positions.
        source: `(n,)` number of the calibration row that it is from.
    """

    columns: np.ndarray
    now: np.ndarray
    wanted: np.ndarray
    weights: np.ndarray
    source: np.ndarray

    def part(self, chosen: np.ndarray) -> "ScoreRows":
        """Some of the rows, weighed so that a loss is the mean of their calibration rows'."""
        count = max(1, len(np.unique(self.source[chosen])))
        return ScoreRows(
            self.columns[chosen],
            self.now[chosen],
            self.wanted[chosen],
            self.weights[chosen] / count,
            self.source[chosen],
        )


def last_layers(meaning: Meaning, analysis: Analysis) -> list[tuple[Part, Origin]]:
    """The layers whose values become scores by nothing but a sigmoid or softmax.

    Args:
        meaning: of the outputs.
        analysis: of the model whose layers they are.
    """
    layers = []
    for part in meaning.parts:
        functions = int(part.form != "logits")
        if part.kind not in ("probabilities", "classes"):
            continue
        for origin in origins(part, meaning.row_axes[part.output], analysis):
            even = (origin.factor == origin.factor[0]).all() and len(set(origin.channels)) == len(origin.channels)
            if origin.functions == functions and even and origin.layer.group == 1:
                layers.append((part, origin))
    return layers


def score_rows(
    part: Part,
    origin: Origin,
    made: Mapping[str, np.ndarray],
    wanted: np.ndarray,
    first: int,
    share: float,
    most: int,
    generator: np.random.Generator,
) -> ScoreRows | None:
    """Rows of a last layer from one batch; None where its values do not become the scores as they should.

    Args:
        part: the scores.
        origin: the layer.
        made: its input and output and the scores (rows first) as the smaller model makes them.
        wanted: the original's output, rows first.
        first: number of the batch's first row.
        share: of all calibration rows, in this batch.
        most: positions that all of them may have; fewer of wide layers.
        generator: draws positions where there are too many.
    """
    layer = origin.layer
    probabilities = _probabilities(part, wanted)[:, origin.positions]
    rows, positions, classes = probabilities.shape
    source, result = made[layer.input], made[layer.output]
    shape = tuple(n for axis, n in enumerate(result.shape) if axis != layer.output_axis)
    width = prod(layer.window.kernel) * source.shape[1] if layer.window else source.shape[layer.input_axis]
    most = max(rows, int(share * min(most, _OPERATIONS / (width * classes))))
    chosen, weights = _chosen(probabilities.max(axis=2).ravel(), part, most, generator)
    row, position = np.divmod(chosen, positions)
    at = Positions(shape, np.ravel_multi_index((row, *(place[position] for place in origin.places)), shape))
    now = output_rows(layer, result, at)[:, origin.channels] * origin.factor[0] + origin.offset[position]
    present = _probabilities(part, made[part.output])[:, origin.positions][row, position]
    if now.shape != present.shape or np.abs(_squashed(part.kind, now) - present).max(initial=0.0) > _NEAR:
        return None
    return ScoreRows(input_rows(layer, source, at)[0], now, probabilities[row, position], weights, first + row)


def joined(parts: Sequence[ScoreRows]) -> ScoreRows:
    """Rows of several batches as one."""
    names = ("columns", "now", "wanted", "weights", "source")
    return ScoreRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _squashed(kind: str, logits: np.ndarray) -> np.ndarray:
    if kind == "probabilities":
        return np.asarray((1 + np.tanh(logits / 2)) / 2)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _probabilities(part: Part, output: np.ndarray) -> np.ndarray:
    values = part.values(output)
    if part.kind == "probabilities" or part.form == "probabilities":
        return values
    powers = np.exp(values - values.max(axis=2, keepdims=True))
    return np.asarray(powers / powers.sum(axis=2, keepdims=True))


def _chosen(
    confidence: np.ndarray, part: Part, most: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, half of them by confidence and half evenly where there are too many, and what each stands for."""
    size = len(confidence)
    if size <= most:
        return np.arange(size), np.ones(size)
    share = np.full(size, 1 / size)
    if part.kind == "probabilities" and confidence.max() > 0:
        share = (share + confidence / confidence.sum()) / 2
    chance = np.minimum(1.0, most * share)
    chosen = np.flatnonzero(generator.random(size) < chance)
    return chosen, 1 / chance[chosen]


def fit_scores(
    kind: str, rows: ScoreRows, held_out: ScoreRows, *, has_bias: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The change of weights `(K, C)` and bias `(C,)` of the logits that does best on held-out rows; None for no change.

    The best weights are sums of rows, so that with fewer rows than columns the fit is one of as many columns as rows.

    Args:
        kind: "probabilities" of each class alone, or "classes" of which one is right.
        rows: rows to fit.
        held_out: rows to choose by.
        has_bias: whether there is a bias to change.
    """
    from scipy.optimize import minimize

    scale = np.sqrt(np.average(np.square(rows.columns, dtype=np.float64), axis=0, weights=rows.weights))
    # Where they are more than a core's cache holds, the time goes into reading the rows over and over.
    number = np.float32 if rows.columns.size > _CACHED else np.float64
    scaled: np.ndarray = (rows.columns / np.maximum(scale, 1e-12)).astype(number)
    basis = None
    if len(scaled) < scaled.shape[1]:
        basis, triangle = np.linalg.qr(scaled.T)
        scaled = triangle.T
    width, classes = scaled.shape[1], rows.now.shape[1]
    shapes = (width * classes, classes if has_bias else 0)

    def unpacked(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = flat[: shapes[0]].reshape(width, classes)
        return weight, flat[shapes[0] :] if has_bias else np.zeros(classes)

    def objective(flat: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
        weight, bias = unpacked(flat)
        value, slope = _loss(kind, rows.now + scaled @ weight.astype(number) + bias, rows)
        gradient = [(scaled.T @ slope.astype(number) + 2 * ridge * weight).ravel(), slope.sum(axis=0)[: shapes[1]]]
        return value + ridge * float(np.square(weight).sum()), np.concatenate(gradient)

    flat, best = np.zeros(sum(shapes)), None
    first = least = _loss(kind, held_out.now, held_out)[0]
    possible = _loss(kind, _logits(kind, held_out.wanted), held_out)[0]
    for ridge in _RIDGES:
        with ONE_THREAD if scaled.size * classes < _SMALL else nullcontext():
            flat = minimize(objective, flat, args=(ridge,), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
        weight, bias = unpacked(flat)
        weight = (weight if basis is None else basis @ weight) / np.maximum(scale, 1e-12)[:, None]
        if kind == "classes":  # what all classes have in common changes nothing: leave it as it was
            weight, bias = weight - weight.mean(axis=1, keepdims=True), bias - bias.mean()
        reached = _loss(kind, held_out.now + held_out.columns @ weight + bias, held_out)[0]
        if reached < least:
            best, least = (weight, bias), reached
    if best is None or first - least <= _LEAST_GAIN * (first - possible):
        return None
    fitted = held_out.now + held_out.columns @ best[0] + best[1]
    gains = _by_row(kind, held_out.now, held_out) - _by_row(kind, fitted, held_out)
    return best if gains.mean() > _SURE[kind] * gains.std() / sqrt(len(gains)) else None


def _by_row(kind: str, logits: np.ndarray, rows: ScoreRows) -> np.ndarray:
    """Loss of each calibration row, up to a common factor."""
    numbers = np.unique(rows.source, return_inverse=True)[1]
    return np.bincount(numbers, rows.weights * _losses(kind, logits, rows))


def _logits(kind: str, probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)) if kind == "probabilities" else np.log(p))


def _losses(kind: str, logits: np.ndarray, rows: ScoreRows) -> np.ndarray:
    """`(n,)` losses of the positions."""
    if kind == "probabilities":
        return np.asarray((np.logaddexp(0, logits) - rows.wanted * logits).sum(axis=1))
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return np.asarray(total - (rows.wanted * logits).sum(axis=1))


def _loss(kind: str, logits: np.ndarray, rows: ScoreRows) -> tuple[float, np.ndarray]:
    """Mean loss of a calibration row, and its gradient in the logits."""
    slope = rows.weights[:, None] * (_squashed(kind, logits) - rows.wanted)
    return float((rows.weights * _losses(kind, logits, rows)).sum()), slope


def known_for_scores(meaning: Meaning, analysis: Analysis) -> tuple[set[str], set[str]]:
    """The original's tensors that `refit_scores` reads, and the smaller model's; arguments as there."""
    layers = last_layers(meaning, analysis)
    outputs = {part.output for part, _ in layers}
    return outputs, outputs | {name for _, origin in layers for name in (origin.layer.input, origin.layer.output)}


def refit_scores(
    meaning: Meaning,
    analysis: Analysis,
    points: Mapping[str, FitTarget],
    original: Replay,
    replay: Replay,
    feeds: Feeds,
    most: int,
    seed: int,
) -> Model:
    """The model with its last layers refitted; the same where held-out rows do not get better.

    Args:
        meaning: of the outputs.
        analysis: of the smaller model.
        points: its fit targets by node.
        original: the original's run, which keeps what `known_for_scores` says.
        replay: the smaller model's, on the same batches.
        feeds: these batches; those that come first are fitted, the others choose. Without others nothing is refitted.
        most: positions that a layer is fitted to.
        seed: draws positions.
    """
    layers = [(p, o) for p, o in last_layers(meaning, analysis) if _may_change(points.get(o.layer.node), analysis)]
    if not layers or feeds.first == len(feeds):
        return analysis.model
    names = [name for part, origin in layers for name in (origin.layer.input, origin.layer.output, part.output)]
    generator = np.random.default_rng([seed, len(points)])
    gathered: list[list[ScoreRows | None]] = [[] for _ in layers]
    starts = [0]
    batches = zip(
        original.peek(len(original.nodes), [*dict.fromkeys(part.output for part, _ in layers)]),
        replay.peek(len(replay.nodes), [*dict.fromkeys(names)]),
        strict=True,
    )
    for index, (ours, made) in enumerate(batches):
        first = {part.output: meaning.rows_first(part.output, made[part.output]) for part, _ in layers}
        for (part, origin), parts in zip(layers, gathered, strict=True):
            wanted = meaning.rows_first(part.output, ours[part.output])
            share, made_first = feeds.share(index), {**made, **first}
            parts.append(score_rows(part, origin, made_first, wanted, starts[-1], share, most, generator))
        starts.append(starts[-1] + len(wanted))
    model = analysis.model
    for (part, origin), parts in zip(layers, gathered, strict=True):
        known = [part_rows for part_rows in parts if part_rows is not None]
        if len(known) < len(parts):
            continue
        rows = joined(known)
        apart = rows.source >= starts[feeds.first]
        fit, held_out = rows.part(~apart), rows.part(apart)
        point = points[origin.layer.node]
        fitted = fit_scores(part.kind, fit, held_out, has_bias=point.bias is not None)
        if fitted is not None:
            model = model.with_constants(corrected(point, model, _in_layer(origin, point, *fitted)))
    return model


def _may_change(point: FitTarget | None, analysis: Analysis) -> bool:
    return point is not None and can_refit(point, analysis)


def _in_layer(origin: Origin, point: FitTarget, weight: np.ndarray, bias: np.ndarray) -> Correction:
    """A change of logits as one of the layer's output."""
    width = len(point.slope)
    matrix, shift = np.zeros((1, len(weight), width)), np.zeros(width)
    matrix[0][:, origin.channels] = weight / origin.factor[0]
    shift[origin.channels] = bias / origin.factor[0]
    return Correction(matrix, shift)
