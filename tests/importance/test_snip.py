"""The SNIP baseline."""

import numpy as np
import pytest

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.split import split_rows
from onnxprune.core.engine import RunOptions
from onnxprune.core.errors import InputError
from onnxprune.core.execution import SerialExecutor
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.snip import _per_unit, score
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

pytest.importorskip("torch", reason="SNIP's gradients need torch")


def model() -> Model:
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    return load(example(text, {"w1": (6, 8), "b1": (8,), "w2": (8, 3)}))


def context(one: Model, labels: np.ndarray | None = None) -> ScoreContext:
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    data = Dataset({"x": x}, labels, "test rows", np.arange(50))
    return ScoreContext(analyse(one), split_rows(data), RunOptions(threads=1), SerialExecutor())


def loss(one: Model, x: np.ndarray, labels: np.ndarray) -> float:
    c = {name: array.astype(np.float64) for name, array in one.constants.items()}
    logits = np.maximum(x @ c["w1"] + c["b1"], 0) @ c["w2"]
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]))


def test_scores_are_gradients_times_weights_summed_over_a_units_weights() -> None:
    labels = np.arange(50) % 3
    own = context(model(), labels)
    assert own.data is not None
    x = own.data.feeds()["x"].astype(np.float64)
    expected = np.zeros(8)
    for name, axis in (("w1", 1), ("b1", 0), ("w2", 0)):
        array = own.model.constants[name].astype(np.float64)
        for place in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[place] = 1e-5
            pair = [loss(own.model.with_constants({name: array + s * step}), x, labels) for s in (1, -1)]
            expected[place[axis]] += abs((pair[0] - pair[1]) / 2e-5 * array[place])
    (group,) = score(own).groups
    np.testing.assert_allclose(group.scores, expected / expected.max(), rtol=2e-3)
    np.testing.assert_array_equal(group.order, np.argsort(expected))


def test_a_unit_that_nothing_reads_goes_first_and_costs_nothing() -> None:
    one = model()
    w2 = one.constants["w2"].copy()
    w2[5] = 0
    (group,) = score(context(one.with_constants({"w2": w2}))).groups
    assert group.order[0] == 5
    assert group.scores[5] == 0
    assert group.damage[8] == group.damage[7] == 0
    assert group.damage[0] == pytest.approx(1)


def test_without_labels_the_models_own_predictions_are_used_and_this_is_said() -> None:
    scores = score(context(model()))
    assert "no labels" in scores.notes[0]
    assert score(context(model(), np.zeros(50, np.int64))).notes == ()


def test_a_model_without_class_scores_is_refused() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { h = Gemm (x, w1) r = Relu (h) y = Gemm (r, w2) }"
    with pytest.raises(InputError, match="no class scores"):
        score(context(load(example(text, {"w1": (6, 8), "w2": (8, 6)}))))


def test_a_weight_that_lies_on_a_unit_twice_counts_once() -> None:
    # The state's weights of a recurrent layer have its units on two axes.
    one = load(
        example(
            """g (float[5,N,6] x) => (float[5,N,3] y) {
            h = RNN <hidden_size = 4> (x, w, r)
            s = Squeeze (h, one)
            y = MatMul (s, w2) }""",
            {"w": (1, 4, 6), "r": (1, 4, 4), "w2": (4, 3)},
            {"one": np.array([1])},
        )
    )
    analysis = analyse(one)
    (group,) = analysis.groups
    found = _per_unit(analysis, {"r": np.arange(16.0).reshape(1, 4, 4)})[group.units]
    matrix = np.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(found, matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
