"""What outputs mean, and the divergence of two sets of outputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.ops.examples import example
from onnxprune.outputs.meaning import OutputKind, divergence, output_kind, row_divergence

LOGITS = OutputKind("y", "logits", ("y",))
PROBABILITIES = OutputKind("y", "probabilities", ("y",))
LOG_PROBABILITIES = OutputKind("y", "log_probabilities", ("y",))
VALUES = OutputKind(None, "values", ("y",))


def kind(text, weights=None, constants=None):
    model = load(example(text, weights, constants))
    return output_kind(model, read_graph(model))


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("end", "form"),
    [
        ("y = Identity (h)", "logits"),
        ("y = Relu (h)", "logits"),
        ("y = Softmax (h)", "probabilities"),
        ("s = Softmax (h)  y = Identity (s)", "probabilities"),
        ("y = LogSoftmax (h)", "log_probabilities"),
        ("e = Exp (h)  t = ReduceSum (e, one)  y = Div (e, t)", "probabilities"),
    ],
)
def test_class_scores_and_what_makes_them(end, form):
    found = kind(
        f"g (float[N,5] x) => (float[N,3] y) {{ h = MatMul (x, w)  {end} }}", {"w": (5, 3)}, {"one": np.array([1])}
    )
    assert found == OutputKind("y", form, ("y",))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,5] x) => (float[N,3] y) { h = MatMul (x, w)  y = Sigmoid (h) }",
        "g (float[N,3] x) => (float[N,3] y) { h = MatMul (x, a)  y = MatMul (h, w) }",
        "g (float[N,5] x) => (float[N,1] y) { y = MatMul (x, a) }",
        "g (float[N,4,5] x) => (float[N,4,3] y) { y = MatMul (x, w) }",
        "g (float[N,2,4,5] x) => (float[N,40] y) { r = Relu (x)  y = Flatten (r) }",
    ],
    ids=["independent", "reconstruction", "regression", "sequence", "flattened map"],
)
def test_outputs_that_are_no_class_scores(text):
    shapes = {"w": (5, 3), "a": (5, 1)}
    if "MatMul (x, a)  y" in text:
        shapes = {"a": (3, 5), "w": (5, 3)}
    used = {name: shape for name, shape in shapes.items() if f", {name})" in text}
    found = kind(text, used)
    assert found == OutputKind(None, "values", ("y",))


def test_labels_make_scores_of_what_may_be_something_else():
    text = "g (float[N,3] x) => (float[N,3] y) {{ h = MatMul (x, w)  y = {0} (h) }}"
    for end, form in (("Identity", "logits"), ("Sigmoid", "values")):
        model = load(example(text.format(end), {"w": (3, 3)}))
        assert output_kind(model, read_graph(model)).scores is None
        assert output_kind(model, read_graph(model), labelled=True) == OutputKind("y", form, ("y",))


def test_scores_are_found_behind_spatial_axes_of_size_one():
    text = "g (float[N,2,4,4] x) => (float[N,3,1,1] y) { h = Conv (x, w)  y = GlobalAveragePool (h) }"
    assert kind(text, {"w": (3, 2, 1, 1)}).scores == "y"


def test_scores_are_found_where_the_file_tells_no_shape():
    assert kind("g (float[N,5] x) => (float[N,M] y) { y = MatMul (x, w) }", {"w": (5, 3)}).scores == "y"
    assert kind("g (float[N,5] x) => (float[N,M] y) { y = MatMul (x, w) }", {"w": (5, 1)}).scores is None


def test_scores_may_be_the_second_output():
    text = (
        "g (float[N,5] x) => (int64[N] k, float[N,3] y) { y = MatMul (x, w)  k = ArgMax <axis = 1, keepdims = 0> (y) }"
    )
    assert kind(text, {"w": (5, 3)}) == OutputKind("y", "logits", ("y",))


def test_divergence_by_hand():
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75), np.log(2)]
    np.testing.assert_allclose(row_divergence({"y": p}, {"y": q}, PROBABILITIES), expected, atol=1e-9)
    assert divergence({"y": p}, {"y": q}, PROBABILITIES) == pytest.approx(np.mean(expected))
    a, b = np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([[3.0, 5.0], [0.0, 5.0]])
    np.testing.assert_allclose(row_divergence({"y": a}, {"y": b}, VALUES), [1 / 25, 0])


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_forms_of_the_same_scores_diverge_alike(seed, spread):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 6, 4)) * spread
    by_logits = row_divergence({"y": a}, {"y": b}, LOGITS)
    assert (by_logits >= 0).all()
    shifted = row_divergence({"y": a + 7}, {"y": b - 3}, LOGITS)
    np.testing.assert_allclose(by_logits, shifted, rtol=1e-6, atol=1e-9)
    logs = [np.log(softmax(scores) + 1e-300) for scores in (a, b)]
    np.testing.assert_allclose(
        by_logits, row_divergence({"y": logs[0]}, {"y": logs[1]}, LOG_PROBABILITIES), rtol=1e-6, atol=1e-9
    )
    if spread < 2:
        held = row_divergence({"y": softmax(a)}, {"y": softmax(b)}, PROBABILITIES)
        np.testing.assert_allclose(by_logits, held, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", [LOGITS, PROBABILITIES, LOG_PROBABILITIES, VALUES])
def test_equal_outputs_do_not_diverge(form):
    scores = softmax(np.random.default_rng(0).standard_normal((5, 4))).astype(np.float32)
    assert divergence({"y": scores}, {"y": scores}, form) == 0


def test_divergence_grows_with_the_distance():
    rng = np.random.default_rng(0)
    a, noise = rng.standard_normal((2, 50, 6))
    for form in (LOGITS, VALUES):
        steps = [divergence({"y": a}, {"y": a + step * noise}, form) for step in (0, 0.1, 0.3, 1.0)]
        assert steps == sorted(steps)
        assert steps[0] == 0 < steps[1]


def test_values_average_over_outputs_of_any_scale():
    both = OutputKind(None, "values", ("small", "large"))
    a = {"small": np.full((4, 2), 1e-3), "large": np.full((4, 3), 1e3)}
    b = {"small": a["small"] * 2, "large": a["large"]}
    assert divergence(a, b, both) == pytest.approx(0.5)


@pytest.mark.parametrize("form", [LOGITS, VALUES])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_infinitely_far(form, value):
    a = np.ones((2, 3))
    b = a.copy()
    b[1, 2] = value
    rows = row_divergence({"y": a}, {"y": b}, form)
    assert np.isfinite(rows[0])
    assert rows[1] == np.inf
    assert divergence({"y": a}, {"y": b}, form) == np.inf


def test_saturated_classes_stay_finite():
    sure = {"y": np.array([[1.0, 0.0]], np.float32)}
    wrong = {"y": np.array([[0.0, 1.0]], np.float32)}
    assert 10 < divergence(sure, wrong, PROBABILITIES) < 100
    masked = {"y": np.array([[0.0, -np.inf]])}
    assert divergence(masked, masked, LOG_PROBABILITIES) == 0


def test_single_column_is_a_probability():
    p, q = np.array([[0.5]]), np.array([[0.25]])
    expected = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert divergence({"y": p}, {"y": q}, PROBABILITIES) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mlperf_tiny/resnet8_cifar10.onnx", "probabilities"),
        ("omlt/gemm.onnx", "log_probabilities"),
        ("magika/model.onnx", "probabilities"),
        ("cifar10_resnet_akamaster/resnet20_cifar10.onnx", "logits"),
        ("mlperf_tiny/ad01_autoencoder.onnx", "values"),
        ("yunet/yunet_s_320_320.onnx", "values"),
        ("vnncomp2023/TinyYOLO.onnx", "values"),
        ("ultra_light_face/version-slim-320.onnx", "values"),
    ],
)
def test_outputs_of_real_models(corpus_path, name, form):
    model = load(corpus_path(f"models/{name}"))
    assert output_kind(model, read_graph(model)).form == form


def test_outputs_beside_class_scores_count() -> None:
    """What only they see did no damage at all, and went."""
    rng = np.random.default_rng(0)
    scores, values, fixed = rng.standard_normal((6, 4)), rng.standard_normal((6, 3)), rng.standard_normal(5)
    kind = OutputKind("scores", "logits", ("scores", "values", "fixed"))
    reference = {"scores": scores, "values": values, "fixed": fixed}
    assert divergence(reference, reference, kind) == 0
    only = divergence({"scores": scores}, {"scores": -scores}, OutputKind("scores", "logits", ("scores",)))
    assert divergence(reference, {**reference, "scores": -scores}, kind) == pytest.approx(only / 3)
    assert divergence(reference, {**reference, "values": 2 * values}, kind) == pytest.approx(1 / 3)
    assert divergence(reference, {**reference, "fixed": 0 * fixed}, kind) == pytest.approx(1 / 3)
    assert row_divergence(reference, {**reference, "values": np.full((6, 3), np.nan)}, kind).tolist() == [np.inf] * 6
