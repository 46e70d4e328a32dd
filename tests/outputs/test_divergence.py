"""How far outputs are apart, by what they mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.outputs.divergence import Reference, divergence
from onnxprune.outputs.meaning import Meaning, Part


def alone(kind, form="logits", axis=1) -> Meaning:
    return Meaning({"y": 0}, (Part("y", kind, axis=axis, form=form),), (1.0,))


LOGITS = alone("classes")
PROBABILITIES = alone("classes", "probabilities")
LOG_PROBABILITIES = alone("classes", "log_probabilities")
INDEPENDENT = alone("probabilities", "probabilities")
INDEPENDENT_LOGITS = alone("probabilities")
QUANTITIES = alone("quantities")
EMBEDDING = alone("embedding")
ALL = [LOGITS, PROBABILITIES, LOG_PROBABILITIES, INDEPENDENT, QUANTITIES, EMBEDDING]


def rows(a, b, meaning):
    return Reference(meaning, {"y": a}).rows({"y": b})


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_class_scores_by_hand():
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75), np.log(2)]
    np.testing.assert_allclose(rows(p, q, PROBABILITIES), expected, atol=1e-9)
    assert divergence({"y": p}, {"y": q}, PROBABILITIES) == pytest.approx(np.mean(expected))


def test_probabilities_by_hand():
    p, q = np.array([[0.5, 0.25]]), np.array([[0.25, 0.25]])
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence({"y": p}, {"y": q}, INDEPENDENT) == pytest.approx(expected)
    p, q = np.log(p / (1 - p)), np.log(q / (1 - q))
    assert divergence({"y": p}, {"y": q}, INDEPENDENT_LOGITS) == pytest.approx(expected)


def test_quantities_by_hand():
    """Each column by its own variance: 1 and 10,000 here (and a ten-thousandth of its mean square)."""
    a = np.array([[1.0, 100.0], [-1.0, -100.0]])
    np.testing.assert_allclose(rows(a, a + np.diag([0.1, 10]), QUANTITIES), [0.005, 0.005], rtol=1e-3)


def test_embeddings_by_hand():
    a = np.array([[1.0, 0.0], [0.0, 1.0]])
    turned = np.array([[1.0, 0.0], [1.0, 1.0]])
    unit = 1 - np.sqrt(0.5)  # what the mean direction has of each
    np.testing.assert_allclose(rows(a, 3 * turned, EMBEDDING), [0, (1 - np.sqrt(0.5)) / unit], atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_forms_of_the_same_scores_diverge_alike(seed, spread):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 6, 4)) * spread
    by_logits = rows(a, b, LOGITS)
    assert (by_logits >= 0).all()
    np.testing.assert_allclose(by_logits, rows(a + 7, b - 3, LOGITS), rtol=1e-6, atol=1e-9)
    logs = [np.log(softmax(scores) + 1e-300) for scores in (a, b)]
    np.testing.assert_allclose(by_logits, rows(*logs, LOG_PROBABILITIES), rtol=1e-6, atol=1e-9)
    if spread < 2:
        np.testing.assert_allclose(by_logits, rows(softmax(a), softmax(b), PROBABILITIES), rtol=1e-6, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_a_class_axis_may_lie_anywhere(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 5, 3, 4))
    each = np.mean([rows(a[:, n], b[:, n], LOGITS) for n in range(3)], axis=0)
    np.testing.assert_allclose(rows(a, b, alone("classes", axis=2)), each)
    np.testing.assert_allclose(rows(np.swapaxes(a, 1, 2), np.swapaxes(b, 1, 2), LOGITS), each)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e3]), st.floats(-100, 100))
def test_the_scale_of_a_column_does_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((40, 3))
    b = a + 0.1 * rng.standard_normal(a.shape)
    stretched = [x * np.array([scale, 1, 1]) for x in (a, b)]
    assert divergence({"y": a}, {"y": b}, QUANTITIES) == pytest.approx(
        divergence(*({"y": x} for x in stretched), QUANTITIES)
    )
    moved = divergence({"y": a + shift}, {"y": b + shift}, QUANTITIES)
    assert moved <= divergence({"y": a}, {"y": b}, QUANTITIES) * (1 + 1e-2)


@pytest.mark.parametrize("meaning", ALL)
def test_equal_outputs_do_not_diverge(meaning):
    scores = softmax(np.random.default_rng(0).standard_normal((5, 4))).astype(np.float32)
    assert divergence({"y": scores}, {"y": scores}, meaning) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("meaning", [LOGITS, QUANTITIES, EMBEDDING])
def test_divergence_grows_with_the_distance(meaning):
    rng = np.random.default_rng(0)
    a, noise = rng.standard_normal((2, 50, 6))
    steps = [divergence({"y": a}, {"y": a + step * noise}, meaning) for step in (0, 0.1, 0.3, 1.0)]
    assert steps == sorted(steps)
    assert steps[0] == pytest.approx(0, abs=1e-9) != steps[1]


@pytest.mark.parametrize("meaning", [LOGITS, QUANTITIES, INDEPENDENT])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_infinitely_far(meaning, value):
    a = np.full((2, 3), 0.5)
    a[0] = 0.25
    b = a.copy()
    b[1, 2] = value
    if meaning is INDEPENDENT and np.isinf(value):
        pytest.skip("more than certain counts as certain")
    found = rows(a, b, meaning)
    assert np.isfinite(found[0])
    assert found[1] == np.inf
    assert divergence({"y": a}, {"y": b}, meaning) == np.inf


def test_saturated_classes_stay_finite():
    sure, wrong = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    assert 10 < divergence({"y": sure}, {"y": wrong}, PROBABILITIES) < 100
    assert 10 < divergence({"y": sure}, {"y": wrong}, INDEPENDENT) < 100
    masked = {"y": np.array([[0.0, -np.inf]])}
    assert divergence(masked, masked, LOG_PROBABILITIES) == 0


def detector(scale=1.0) -> Meaning:
    parts = (
        Part("y", "quantities", axis=2, columns=(0, 1, 2, 3), width=4, positions=(50,), confidence=(1,)),
        Part(
            "y",
            "probabilities",
            axis=2,
            columns=(4, 5),
            width=2,
            positions=(50,),
            form="probabilities",
            scale=scale,
        ),
    )
    return Meaning({"y": 0}, parts, (0.5, 0.5))


@pytest.mark.parametrize(("count", "left_out"), [(1, 0), (40, 0), (99, 0), (100, 5), (219, 10)])
def test_the_twentieth_of_many_rows_that_differs_most_is_not_usual(count: int, left_out: int) -> None:
    rng = np.random.default_rng(count)
    a = rng.standard_normal((count, 4))
    b = a + rng.standard_normal((count, 4)) * rng.permutation(np.arange(1, count + 1))[:, None]
    each = np.sort(rows(a, b, LOGITS))
    assert Reference(LOGITS, {"y": a}).usual({"y": b}) == pytest.approx(each[: count - left_out].mean())


def test_a_row_that_overflows_is_never_left_out() -> None:
    a = np.random.default_rng(0).standard_normal((120, 4))
    b = a.copy()
    b[3] = np.nan
    assert Reference(LOGITS, {"y": a}).usual({"y": b}) == np.inf


def detections(rng, objects) -> np.ndarray:
    """12 rows of 50 positions with boxes of 0 to 320 and two scores, `objects` of them high."""
    boxes, scores = rng.uniform(0, 320, (12, 50, 4)), rng.uniform(0, 1e-3, (12, 50, 2))
    scores[:, :objects, 0] = rng.uniform(0.6, 0.9, (12, objects))
    return np.concatenate([boxes, scores], 2)


def test_boxes_of_the_background_hardly_count() -> None:
    rng = np.random.default_rng(0)
    a = detections(rng, 2)
    reference = Reference(detector(), {"y": a})
    moved = {"background": a.copy(), "object": a.copy()}
    moved["background"][:, 10, :4] += 30
    moved["object"][:, 0, :4] += 30
    costs = {name: reference.divergence({"y": b}) for name, b in moved.items()}
    assert costs["object"] > 50 * costs["background"] > 0


def test_where_nothing_is_sure_all_positions_count_alike() -> None:
    a = detections(np.random.default_rng(0), 0)
    reference = Reference(detector(), {"y": a})
    first, second = a.copy(), a.copy()
    first[:, 0, :4] += 30
    second[:, 10, :4] += 30
    assert reference.divergence({"y": first}) == pytest.approx(reference.divergence({"y": second}), rel=0.5)


def test_lost_objects_count_as_much_as_lost_boxes() -> None:
    """Scores of 0 to 1 beside boxes of 0 to 320: today's relative error of the whole was 0.2 % with nothing found."""
    a = detections(np.random.default_rng(0), 2)
    blind, still = a.copy(), a.copy()
    blind[..., 4:] = 5e-4
    still[..., :4] = a[..., :4].mean((0, 1))
    reference = Reference(detector(), {"y": a})
    assert 0.2 < reference.divergence({"y": blind}) < 5
    assert 0.2 < reference.divergence({"y": still}) < 5
    assert reference.parts({"y": blind})[0] == 0 == reference.parts({"y": still})[1]


def test_scaled_scores_are_the_same_scores() -> None:
    rng = np.random.default_rng(0)
    a = detections(rng, 2)
    b = a + 0.01 * rng.uniform(size=a.shape)
    scaled = Reference(detector(1000.0), {"y": 1000 * a}).divergence({"y": 1000 * b})
    assert scaled == pytest.approx(Reference(detector(), {"y": a}).divergence({"y": b}))


def test_outputs_of_other_kinds_and_scales_are_weighed_alike() -> None:
    """What only the second output sees did no damage at all, and went."""
    rng = np.random.default_rng(0)
    parts = (Part("scores", "classes"), Part("values", "quantities"), Part("fixed", "quantities", axis=0))
    meaning = Meaning({"scores": 0, "values": 0, "fixed": None}, parts, (1 / 3,) * 3)
    known = {
        "scores": 3 * rng.standard_normal((60, 4)),
        "values": 1e3 * rng.standard_normal((60, 3)),
        "fixed": rng.standard_normal((1, 5)),
    }
    reference = Reference(meaning, known)
    assert reference.divergence(known) == pytest.approx(0, abs=1e-12)
    for number, name in enumerate(("scores", "values")):
        usual = np.broadcast_to(known[name].mean(0), known[name].shape)
        found = {**known, name: usual}
        assert reference.divergence(found) == pytest.approx(1 / 3, rel=0.5)
        assert [part > 0 for part in reference.parts(found)] == [each == number for each in range(3)]
    assert reference.divergence({**known, "fixed": 0 * known["fixed"]}) > 0
    assert (reference.rows({**known, "values": np.full((60, 3), np.nan)}) == np.inf).all()


def test_labels_differ_or_not() -> None:
    a, b = np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]])
    assert rows(a, b, alone("labels", axis=0)).tolist() == [0, 0.5]


def test_large_outputs_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = detections(rng, 2), detections(rng, 2)
    whole = Reference(detector(), {"y": a}).rows({"y": b})
    monkeypatch.setattr("onnxprune.outputs.divergence._BLOCK_ELEMENTS", 1)
    np.testing.assert_allclose(Reference(detector(), {"y": a}).rows({"y": b}), whole)
