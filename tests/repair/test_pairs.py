"""Fitting a producer together with its consumer."""

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.ops.examples import example
from onnxprune.repair.middle import Middle
from onnxprune.repair.pair_fit import PairLoss, fit_pair, steps_for
from onnxprune.repair.pairs import Pair, PairFit, find_pairs, joined, pair_rows, read_by, rows_in
from onnxprune.repair.ridge import Correction, residual
from onnxprune.repair.sequential import corrected
from onnxprune.structure.coupling import analyse
from onnxprune.structure.fit_targets import fit_schedule

CONV = """g (float[N,3,9,9] x) => (float[N,5,A,B] y) {
    h = Conv <pads = [1, 1, 1, 1], group = GROUPS> (x, w1, b1)
    n = BatchNormalization (h, scale, shift, mean, var)
    r = Relu (n)
    c = Conv <strides = [2, 2], dilations = [1, 2], pads = [1, 2, 1, 2]> (r, w2, b2)
    y = Relu (c) }"""
DENSE = """g (float[N,6] x) => (float[N,3] y) {
    h = Gemm <alpha = 0.5, transB = 1> (x, w1, b1)
    r = Clip (h, low, high)
    y = Gemm <alpha = 2.0> (r, w2, b2) }"""


def conv(channels: int = 4, groups: int = 1) -> Model:
    norm = dict.fromkeys(("scale", "shift", "mean", "var", "b1"), (channels,))
    weights = {"w1": (channels, 3 // groups, 3, 3), "w2": (5, channels, 3, 3), "b2": (5,)}
    return load(example(CONV.replace("GROUPS", str(groups)), weights | norm))


def dense() -> Model:
    bounds = {"low": np.array(-0.2, np.float32), "high": np.array(0.6, np.float32)}
    return load(example(DENSE, {"w1": (8, 6), "b1": (8,), "w2": (8, 3), "b2": (3,)}, bounds))


def activated(body: str, weights: dict[str, tuple[int, ...]] | None = None) -> Model:
    """Two convolutions with nodes that make `r` of `h` in between."""
    text = f"""g (float[N,3,9,9] x) => (float[N,5,A,B] y) {{
    h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    {body}
    y = Conv <pads = [1, 1, 1, 1]> (r, w2, b2) }}"""
    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (5, 4, 3, 3), "b2": (5,)}
    return load(example(text, shapes | (weights or {})))


def transposed() -> Model:
    text = """g (float[N,3,9,9] x) => (float[N,5,A,B] y) {
    h = ConvTranspose <strides = [2, 2], pads = [1, 0, 0, 1], output_padding = [1, 0], group = 3> (x, w1, b1)
    r = Relu (h)
    y = Conv <pads = [1, 1, 1, 1]> (r, w2, b2) }"""
    return load(example(text, {"w1": (3, 2, 3, 2), "b1": (6,), "w2": (5, 6, 3, 3), "b2": (5,)}))


def gelu() -> Model:
    """Dense layers on sequences, with GELU as exporters write it out."""
    numbers = {"two": np.array(2**0.5, np.float32), "half": np.array([0.5], np.float32), "one": np.float32(1)}
    text = """g (float[N,4,6] x) => (float[N,4,3] y) {
    m = MatMul (x, w1)
    h = Add (m, b1)
    q = Div (h, two)
    e = Erf (q)
    s = Add (e, one)
    t = Mul (h, s)
    r = Mul (t, half)
    z = MatMul (r, w2)
    y = Add (z, b2) }"""
    return load(example(text, {"w1": (6, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}, numbers))


def pairs_of(model: Model) -> dict[str, Pair]:
    analysis = analyse(model)
    return find_pairs(fit_schedule(analysis).points, analysis)


def only_pair(model: Model) -> Pair:
    (pair,) = pairs_of(model).values()
    return pair


def middle(model: Model, pair: Pair) -> Middle:
    return Middle(pair.between, analyse(model), ONE_CORE)


def loss_of(model: Model, pair: Pair, kind: type = np.float32) -> PairLoss:
    return PairLoss(pair, middle(model, pair), weights_of(model, pair), np.dtype(kind))


def fitted(
    model: Model, pair: Pair, rows: PairFit, held: PairFit, seed: int, steps: int
) -> tuple[Correction, Correction] | None:
    generator = np.random.default_rng(seed)
    return fit_pair(pair, rows, held, middle(model, pair), weights_of(model, pair), generator, steps)


def values(model: Model, pair: Pair, x: np.ndarray) -> dict[str, np.ndarray]:
    names = [name for name in read_by(pair) if name != "x"]
    return Runner(model, names, engine=ONE_CORE, optimise=False).run_feed({"x": x}) | {"x": x}


def rows_of(model: Model, pair: Pair, x: np.ndarray, target: np.ndarray, count: int = 10**4, seed: int = 0) -> PairFit:
    return pair_rows(pair, values(model, pair, x), target, count, np.random.default_rng(seed))


def weights_of(model: Model, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return model.constants[pair.producer.layer.weight], model.constants[pair.consumer.layer.weight]


def mean_square(pair: Pair, rows: PairFit) -> float:
    """Residual of the values that the rows have now."""
    return float(np.square(residual(rows.target, rows.current, pair.consumer.bounds)).mean())


def images(model: Model, seed: int, rows: int = 6) -> np.ndarray:
    image, sequence = model.constants["w1"].ndim == 4, "two" in model.constants
    shape = (rows, 3, 9, 9) if image else (10 * rows, 4, 6) if sequence else (40 * rows, 6)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


OVERLAPPING = "a = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 1], ceil_mode = 1>"
SILU = "s = Sigmoid (h)\n r = Mul (h, s)"
SCALED = "a = Relu (h)\n r = BatchNormalization (a, scale, shift, mean, var)"
NETWORKS = {
    "conv": conv(),
    "grouped": conv(6, 3),
    "depthwise": conv(3, 3),
    "transposed": transposed(),
    "dense": dense(),
    "gelu": gelu(),
    "silu": activated(SILU),
    "leaky": activated("r = LeakyRelu (h)"),
    "prelu": activated("r = PRelu (h, slope)", {"slope": (4, 1, 1)}),
    "scaled": activated(SCALED, dict.fromkeys(("scale", "shift", "mean", "var"), (4,))),
    "pooled": activated("a = Relu (h)\n r = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)"),
    "overlapping": activated(f"{OVERLAPPING} (h)\n r = Relu (a)"),
    "averaged": activated("a = Relu (h)\n r = AveragePool <kernel_shape = [2, 3], strides = [1, 2]> (a)"),
}
MODELS = pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)


@MODELS
def test_prediction_is_what_the_corrected_model_computes(model: Model) -> None:
    pair, x = only_pair(model), images(model, 1)
    goal = values(model, pair, x)[pair.consumer.tensor] + 0.3
    rows = rows_of(model, pair, x, goal)
    other = images(model, 2)
    held = rows_of(model, pair, other, values(model, pair, other)[pair.consumer.tensor] + 0.3)
    found = fitted(model, pair, rows, held, 3, 800)
    assert found is not None
    changed = corrected(pair.producer, model, found[0]) | corrected(pair.consumer, model, found[1])
    now = rows_of(model.with_constants(changed), pair, x, goal)  # the same tiles
    assert mean_square(pair, now) < 0.5 * mean_square(pair, rows)
    loss = loss_of(model, pair)
    width = rows.made.shape[2]
    kernel = found[1].weight[0].reshape(width, -1, rows.target.shape[2]).transpose(1, 0, 2)
    groups, columns, outputs = found[0].weight.shape
    first = found[0].weight.reshape(groups, -1, rows.tile.columns.shape[1], outputs).swapaxes(1, 2)
    first = first.reshape(groups, columns, outputs)
    corrections = [each.astype(np.float32) for each in (first, found[0].bias, kernel, found[1].bias)]
    predicted = loss.value(loss.prepared(rows), corrections)
    assert predicted == pytest.approx(mean_square(pair, now), rel=1e-3)


@MODELS
def test_no_correction_predicts_the_present_values(model: Model) -> None:
    pair, x = only_pair(model), images(model, 4)
    rows = rows_of(model, pair, x, values(model, pair, x)[pair.consumer.tensor] + 0.3)
    loss = loss_of(model, pair)
    assert loss.value(loss.prepared(rows), loss.zeros()) == pytest.approx(mean_square(pair, rows), rel=1e-5)


@MODELS
def test_gradient_agrees_with_differences(model: Model) -> None:
    pair, x = only_pair(model), images(model, 3)
    rng = np.random.default_rng(4)
    goal = values(model, pair, x)[pair.consumer.tensor]
    goal = goal + rng.standard_normal(goal.shape).astype(goal.dtype)
    rows = rows_of(model, pair, x, goal)
    rows = replace(
        rows, **{name: getattr(rows, name).astype(np.float64) for name in ("inputs", "made", "current", "target")}
    )
    loss = loss_of(model, pair, np.float64)
    rows = loss.prepared(rows)
    point = [0.05 * rng.standard_normal(shape) for shape in loss.shapes]
    direction = [rng.standard_normal(shape) for shape in loss.shapes]
    # onnxruntime works in single precision, and a larger step goes across kinks.
    step, error = (1e-6, 1e-3) if pair.between.first.bounds is not None else (1e-3, 1e-2)
    ends = [loss.value(rows, [p + s * d for p, d in zip(point, direction, strict=True)]) for s in (step, -step)]
    along = sum(float((g * d).sum()) for g, d in zip(loss.gradient(rows, point), direction, strict=True))
    assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=error)


def test_a_pair_that_held_out_rows_disagree_with_is_left_alone() -> None:
    model = dense()
    pair, x = only_pair(model), images(model, 6)
    now = values(model, pair, x)[pair.consumer.tensor]
    rows, held = rows_of(model, pair, x, now + 0.5), rows_of(model, pair, x, now - 0.5)
    assert fitted(model, pair, rows, held, 0, 800) is None


def test_layers_whose_products_take_long_get_fewer_steps_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = only_pair(dense())
    assert [steps_for(pair, 6, (240, 3), rows) for rows in (240, 1500, 9000)] == [400, 600, 800]
    # 6 * 8 and 8 * 3 products a row, three times (forward and two gradients), two operations each, 256 rows a step.
    monkeypatch.setattr("onnxprune.repair.pair_fit._OPERATIONS", 200 * 72 * 6 * 256)
    assert steps_for(pair, 6, (240, 3), 240) == 200
    monkeypatch.setattr("onnxprune.repair.pair_fit._OPERATIONS", 99 * 72 * 6 * 256)
    assert steps_for(pair, 6, (240, 3), 240) == 0


@MODELS
def test_rows_of_batches_join(model: Model) -> None:
    pair, x = only_pair(model), images(model, 7)
    goal = values(model, pair, x)[pair.consumer.tensor] + 0.1
    parts = [rows_of(model, pair, x, goal, seed=seed) for seed in (0, 1)]
    squares, sizes = [mean_square(pair, part) for part in parts], [part.target.size for part in parts]
    assert mean_square(pair, joined(parts)) == pytest.approx(np.average(squares, weights=sizes), rel=1e-5)


@MODELS
def test_rows_keep_to_the_memory(model: Model) -> None:
    pair, x = only_pair(model), images(model, 8, rows=40)
    goal = values(model, pair, x)[pair.consumer.tensor]
    count = rows_in(pair, x.shape[pair.producer.layer.input_axis], goal.shape, 60_000)
    rows = rows_of(model, pair, x, goal, count)
    taken = sum(getattr(rows, name).nbytes for name in ("inputs", "made", "current", "target"))
    assert 0.7 * 60_000 < taken <= 60_000


def test_producers_that_others_read_are_no_pairs() -> None:
    model = load(
        example(
            """g (float[N,6] x) => (float[N,3] y) {
            h = Gemm (x, w1)
            r = Relu (h)
            a = Gemm (r, w2)
            b = Gemm (r, w3)
            y = Add (a, b) }""",
            {"w1": (6, 8), "w2": (8, 3), "w3": (8, 3)},
        )
    )
    assert pairs_of(model) == {}


@pytest.mark.parametrize(
    "body",
    [
        "a = Sigmoid (h)\n b = ReduceMean <axes = [2, 3]> (h)\n r = Mul (a, b)",  # not each element by itself
        "r = Mul (h, places)",  # other numbers at other places
        "a = Relu (h)\n r = Round (a)",  # steps, as of simulated quantisation
        "a = Relu (h)\n c = Conv <pads = [1, 1, 1, 1]> (x, w3)\n r = Add (a, c)",  # of two layers
        "r = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (h)",
        "a = MaxPool <kernel_shape = [3, 3]> (h)\n b = MaxPool <kernel_shape = [3, 3]> (h)\n r = Add (a, b)",
    ],
)
def test_only_what_works_on_each_element_of_one_layer_lies_between_a_pair(body: str) -> None:
    assert pairs_of(activated(body, {"places": (1, 1, 9, 9), "w3": (4, 3, 3, 3)})) == {}
