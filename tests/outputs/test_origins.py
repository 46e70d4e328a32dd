"""Which layers make which values of an output, and where their outputs say something."""

import numpy as np
import pytest

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.layer_matrix import drawn
from onnxprune.calibration.replay import Replay, batch_feeds
from onnxprune.calibration.runner import collect
from onnxprune.config import PreprocessConfig
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.focus import Focus, focus_of
from onnxprune.outputs.origins import origins
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse
from onnxprune.structure.fit_targets import fit_schedule

# Scores of two levels, joined along their positions, beside boxes.
DETECTOR = """g (float[N,2,4,4] x) => (float[N,20,5] y) {
    a = Conv (x, w1, b1)  p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)  b = Conv (p, w2, b2)
    r = Reshape (a, flat)  q = Reshape (b, flat)  t = Concat <axis = 2> (r, q)
    d, c = Split <axis = 1> (t, sizes)  s = Sigmoid (c)  m = Mul (s, ten)
    u = Concat <axis = 1> (d, m)  y = Transpose <perm = [0, 2, 1]> (u) }"""
WEIGHTS = {"w1": (5, 2, 1, 1), "b1": (5,), "w2": (5, 2, 1, 1), "b2": (5,)}
CONSTANTS = {"flat": np.array([0, 5, -1]), "sizes": np.array([2, 3]), "ten": np.full(1, 10, np.float32)}


@pytest.fixture
def detector():
    analysis = analyse(load(example(DETECTOR, WEIGHTS, CONSTANTS)))
    return analysis, read_meaning(analysis)


def test_scores_are_followed_to_the_layers_that_make_them(detector) -> None:
    analysis, meaning = detector
    scores = next(part for part in meaning.parts if part.kind == "probabilities")
    first, second = origins(scores, 0, analysis)
    assert [o.layer.node for o in (first, second)] == [layer.node for layer in analysis.layers]
    assert (first.positions.tolist(), second.positions.tolist()) == ([*range(16)], [*range(16, 20)])
    assert first.channels.tolist() == second.channels.tolist() == [2, 3, 4]
    assert first.functions == second.functions == 1
    np.testing.assert_array_equal(first.places, np.indices((4, 4)).reshape(2, -1))
    np.testing.assert_array_equal(second.places, np.indices((2, 2)).reshape(2, -1))
    x = load_data(
        np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32), analysis.model, PreprocessConfig()
    )
    found = collect(analysis.model, x, ["y", first.layer.output])
    logits = found[first.layer.output][:, first.channels][:, :, first.places[0], first.places[1]].transpose(0, 2, 1)
    np.testing.assert_allclose(scores.values(found["y"])[:, :16], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_a_bias_that_stands_apart_is_an_offset() -> None:
    text = "g (float[N,6,5] x) => (float[N,6,3] y) { h = MatMul (x, w)  b = Add (h, bias)  y = Sigmoid (b) }"
    analysis = analyse(load(example(text, {"w": (5, 3)}, {"bias": np.array([1, 2, 3], np.float32)})))
    (part,) = read_meaning(analysis).parts
    (origin,) = origins(part, 0, analysis)
    np.testing.assert_array_equal(origin.offset, np.tile([1, 2, 3], (6, 1)))
    np.testing.assert_array_equal(origin.factor, 1)
    assert (origin.functions, origin.places[0].tolist()) == (1, [*range(6)])


def test_values_picked_by_computed_places_have_no_origin() -> None:
    text = """g (float[N,3,8] x) => (float[A,3] y) {
        c = MatMul (x, w)  s = Sigmoid (c)  m = ReduceMax <axes = [1, 2], keepdims = 0> (x)
        i = ArgMax <axis = 0> (m)  k = Concat <axis = 0> (i, one)  u = Unsqueeze (k, zero)  y = GatherND (s, u) }"""
    analysis = analyse(load(example(text, {"w": (8, 3)}, {"one": np.array([1]), "zero": np.array([0])})))
    (part,) = read_meaning(analysis).parts
    assert origins(part, 0, analysis) == []


def focused(analysis, meaning, x):
    data = load_data(x, analysis.model, PreprocessConfig())
    replay = Replay(
        analysis.model,
        fit_schedule(analysis).nodes,
        batch_feeds(analysis.model, analysis.graph, data, 1 << 22),
        ONE_CORE,
    )
    return focus_of(meaning, analysis, lambda names: replay.peek(len(replay.nodes), names))


@pytest.fixture
def calm(detector):
    """The detector with scores near 0 wherever the input is 0."""
    analysis, meaning = detector
    model = analysis.model
    return analyse(model.with_constants({name: model.constants[name] - 9 for name in ("b1", "b2")})), meaning


def test_focus_lies_where_the_original_is_sure(calm) -> None:
    analysis, meaning = calm
    x = np.zeros((16, 2, 4, 4), np.float32)
    x[3, :, 1, 2] = x[11, :, 3, 0] = 50
    focus = focused(analysis, meaning, x)
    assert focus is not None
    assert [each.shape for each in focus.maps] == [(16, 4, 4), (16, 2, 2)]
    scores = next(part for part in meaning.parts if part.kind == "probabilities")
    sure = scores.values(collect(analysis.model, load_data(x, analysis.model, PreprocessConfig()), ["y"])["y"]).max(2)
    np.testing.assert_allclose(focus.maps[0].reshape(16, -1), sure[:, :16], rtol=1e-5)
    assert focus.maps[0].max() > 0.5
    rows = focus.starts[1] - focus.starts[0] if len(focus.starts) > 1 else 16
    weights = focus.of_batch(0)((rows, 2, 2))
    both = np.maximum(focus.maps[0].reshape(16, 2, 2, 2, 2).max((2, 4)), focus.maps[1])
    np.testing.assert_allclose(weights.reshape(rows, 2, 2), both[:rows])
    assert focus.of_batch(0)((rows, 7)) is None


def test_there_is_no_focus_where_the_original_is_sure_in_many_places(detector) -> None:
    analysis, meaning = detector
    x = np.random.default_rng(0).standard_normal((9, 2, 4, 4)).astype(np.float32)
    assert focused(analysis, meaning, x) is None


def test_there_is_no_focus_without_scores_on_maps_or_without_a_sure_one(detector) -> None:
    analysis, meaning = detector
    model = analysis.model
    quiet = model.with_constants({name: model.constants[name] - 30 for name in ("b1", "b2")})
    x = np.random.default_rng(0).standard_normal((9, 2, 4, 4)).astype(np.float32)
    assert focused(analysis.with_model(quiet), meaning, x) is None
    plain = analyse(load(example("g (float[N,5] x) => (float[N,3] y) { y = MatMul (x, w) }", {"w": (5, 3)})))
    assert focus_of(read_meaning(plain), plain, lambda names: pytest.fail("ran")) is None


def test_maps_of_other_sizes_take_the_largest_or_the_nearest() -> None:
    focus = Focus((np.arange(12, dtype=np.float32).reshape(1, 3, 4),), (0,))
    assert focus.of_batch(0)((1, 3, 2)).tolist() == [1, 3, 5, 7, 9, 11]
    assert focus.of_batch(0)((1, 3, 8)).reshape(3, 8)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_positions_are_drawn_by_their_weights_and_once_each() -> None:
    weights = np.array([0, 1, 1, 8, 0, 10])
    counts = np.zeros(6)
    for seed in range(400):
        counts[drawn(weights, 1, np.random.default_rng(seed))] += 1
        assert len({*drawn(weights, 3, np.random.default_rng(seed))}) == 3
    assert counts[[0, 4]].sum() == 0
    assert counts[5] > counts[3] > 4 * counts[1]
    assert sorted(drawn(weights, 9, np.random.default_rng(0))) == [1, 2, 3, 5]
