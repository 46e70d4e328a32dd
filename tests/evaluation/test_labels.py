"""Which outputs labels are compared with."""

import warnings

import numpy as np
import pytest
from classifiers import both

from onnxprune.config import OutputConfig
from onnxprune.core.errors import InputError
from onnxprune.core.results import MetricChange
from onnxprune.core.text import main_metric
from onnxprune.evaluation.warnings import heavy_losses
from onnxprune.pipeline.floor import main_loss

SCORED_BOXES = """g (float[N,5,6] x) => (float[N,5,4] boxes, float[N,5,3] scores) {
    boxes = MatMul (x, v) z = MatMul (x, w) scores = Sigmoid (z) }"""


def test_labels_are_not_compared_with_boxes() -> None:
    """Class numbers were compared with the largest of four coordinates: "class 3" of a detector of three classes."""
    rng = np.random.default_rng(0)
    weights = {"v": rng.standard_normal((6, 4)), "w": rng.standard_normal((6, 3))}
    x = rng.standard_normal((40, 5, 6)).astype(np.float32)
    best = (x @ weights["w"]).argmax(2)
    holds = rng.random(best.shape) < 0.3
    with pytest.raises(
        InputError, match=r"which of the 5 positions of 'scores' .* hold nothing.* by -1.*\[rows, 5, 3\]"
    ):
        both(SCORED_BOXES, weights, weights, x, holds.astype(int))
    changes = both(SCORED_BOXES, weights, {**weights, "w": weights["w"][:, [1, 0, 2]]}, x, np.where(holds, best, -1))
    assert changes["accuracy"].before == 1
    assert changes["accuracy"].after == pytest.approx(np.mean(best[holds] == 2))
    assert main_metric(changes) == "accuracy"
    assert "agreement" not in changes
    with pytest.raises(InputError, match=r"a label is 3, but .* 3 classes"):
        both(SCORED_BOXES, weights, weights, x, np.where(holds, 3, -1))


def test_only_labels_rule_where_there_are_labels() -> None:
    """`--max-drop` was about the agreement of outputs that only the labels showed to be class scores."""
    rng = np.random.default_rng(0)
    text = "g (float[N,5,6] x) => (float[N,5,3] y) { y = MatMul (x, w) }"
    weight = rng.standard_normal((6, 3)) + 1
    x = rng.standard_normal((40, 5, 6)).astype(np.float32)
    changes = both(text, {"w": weight}, {"w": weight[:, [1, 0, 2]]}, x, (x @ weight).argmax(2))
    assert {name for name, change in changes.items() if change.rules} == {"accuracy"}
    assert "agreement" in changes


def test_labels_that_the_original_does_not_fit_are_a_warning() -> None:
    """Shuffled labels let a classifier lose everything: "1.2 points more top-1 accuracy", and no warning."""
    rng = np.random.default_rng(0)
    text = "g (float[N,6] x) => (float[N,4] y) { z = MatMul (x, w) y = Softmax (z) }"
    x = rng.standard_normal((400, 6)).astype(np.float32)
    weight = 10 * np.eye(6, 4)
    right = (x @ weight).argmax(1)
    changes = both(text, {"w": weight}, {"w": weight[:, [1, 0, 2, 3]]}, x, rng.permutation(right))
    (blind, *others) = heavy_losses(changes)
    assert "no better than without looking at the inputs" in blind
    assert any("agreement" in warning for warning in others), "labels say nothing, so that agreement counts"
    fits = heavy_losses(both(text, {"w": weight}, {"w": weight}, x, right))
    assert not fits


def test_a_model_that_finds_what_is_rare_is_not_called_blind() -> None:
    """Of labels 97 % of which are alike 98.5 % right is half of what the commonest label gets wrong."""
    for before, told in ((0.985, False), (0.97, True), (0.9, True)):
        changes = {"accuracy": MetricChange(before, before, blind=0.97)}
        assert any("no better" in warning for warning in heavy_losses(changes)) == told
    assert not heavy_losses({"top1": MetricChange(1.0, 1.0, blind=1.0)})


MASKS = "g (float[N,1,4,4] x) => (float[N,1,4,4] y) {{ h = Mul (x, w) {0} }}"


def masks() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((50, 1, 4, 4)).astype(np.float32) - 1
    return x, x > 0


def test_masks_of_any_type_are_judged_by_overlap() -> None:
    """Whole numbers were class numbers: by its share of right pixels a mask that finds nothing is 84 % right."""
    x, wanted = masks()
    text = MASKS.format("y = Sigmoid (h)")
    for kind in (np.uint8, np.int64, bool, np.float32):
        changes = both(text, {"w": np.float32(9)}, {"w": np.float32(-9)}, x, wanted.astype(kind))
        assert (changes["label_iou"].before, changes["label_iou"].after) == (1, 0)


def test_a_floor_by_labels_that_nothing_can_be_lost_by_is_an_error() -> None:
    """Masks beside logits explain none of these: every smaller model was within the floor."""
    x, wanted = masks()
    changes = both(MASKS.format("y = Add (h, h)"), {"w": np.float32(9)}, {"w": np.float32(0)}, x, wanted.astype("f4"))
    assert changes["label_fit"].before == 0
    with pytest.raises(InputError, match=r"is 0 for the original itself.*--output NAME=probabilities"):
        main_loss("model", changes)


def test_labels_of_coordinates_beside_scores_say_what_to_do() -> None:
    """They got the advice to give y.argmax(1) of one-hot labels."""
    text = "g (float[N,6] x) => (float[N,4] y) { y = MatMul (x, w) }"
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((30, 6)).astype(np.float32), {"w": rng.standard_normal((6, 4))}
    with pytest.raises(InputError, match=r"read as class scores.*--output y=quantities"):
        both(text, weight, weight, x, rng.random((30, 4)))
    with pytest.raises(InputError, match=r"y\.argmax\(1\)"):
        both(text, weight, weight, x, np.eye(4)[rng.integers(0, 4, 30)])


def test_columns_of_labels_at_different_levels_count_alike() -> None:
    """Around one mean for all of them, a column of 300 and one of 0 had all their variance explained by it."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((60, 4)).astype(np.float32), rng.standard_normal((4, 2)).astype(np.float32)
    text = "g (float[N,4] x) => (float[N,2] y) { h = MatMul (x, w)  t = Tanh (h)  y = Add (t, level) }"
    level = np.array([300, 0], np.float32)
    wanted = np.tanh(x @ weight) + level
    halved = {"w": 0 * weight, "level": level}
    said = OutputConfig(kinds=("y=quantities",))
    fits = both(text, {"w": weight, "level": level}, halved, x, wanted, said)["label_fit"]
    assert fits.before == pytest.approx(1, abs=1e-4)
    assert fits.after < 0.1


@pytest.mark.parametrize(("head", "classes"), [(0, 4), (1, 9)])
def test_labels_belong_to_the_head_that_is_right(head: int, classes: int) -> None:
    """Labels of the second of two heads were refused: "a label is 8, but the model has 4 classes"."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 6)).astype(np.float32)
    weights = {"v": rng.standard_normal((6, 4)), "w": rng.standard_normal((6, 9))}
    text = """g (float[N,6] x) => (float[N,4] first, float[N,9] second) {
        a = MatMul (x, v)  first = Softmax (a)  b = MatMul (x, w)  second = Softmax (b) }"""
    labels = (x @ [weights["v"], weights["w"]][head]).argmax(1)
    swapped = weights | {"vw"[head]: -weights["vw"[head]]}
    right = both(text, weights, swapped, x, labels)["top1"]
    assert right.before == 1
    assert right.after < 0.5
    assert ["first", "second"][head] in right.detail


def test_labels_belong_to_the_head_that_has_as_many_classes() -> None:
    """Of a hierarchy the fine classes were refused: only the coarse ones are told by their weights alone."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 32)).astype(np.float32)
    coarse, fine = rng.standard_normal((32, 3)), rng.standard_normal((32, 9)) + 0.5
    weights = {"v": coarse - coarse.mean(1, keepdims=True), "w": fine}
    text = (
        "g (float[N,32] x) => (float[N,3] first, float[N,9] second) { first = MatMul (x, v)  second = MatMul (x, w) }"
    )
    changes = both(text, weights, weights | {"w": -fine}, x, (x @ fine).argmax(1))
    assert changes["top1"].before == 1
    assert changes["top1"].after < 0.5
    assert "second" in changes["top1"].detail


def test_first_rows_without_labels_choose_no_head_in_noise() -> None:
    """Where no place of the first rows had a label, a mean of nothing was taken."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5, 6)).astype(np.float32)
    weights = {"v": rng.standard_normal((6, 4)), "w": rng.standard_normal((6, 3))}
    text = """g (float[N,5,6] x) => (float[N,5,4] first, float[N,5,3] second) {
        a = MatMul (x, v)  first = Softmax (a)  b = MatMul (x, w)  second = Softmax (b) }"""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        changes = both(text, weights, weights, x, np.full((40, 5), -1))
    assert changes["accuracy"].before == 0


def test_one_number_a_row_is_judged_by_its_labels() -> None:
    """Columns of one number were refused in every spelling: no regression with a single target had `--max-drop`."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((50, 6)).astype(np.float32), rng.standard_normal((6, 1))
    wanted = (x @ weight).astype(np.float32)
    text = "g (float[N,6] x) => (float[N,1] y) { y = MatMul (x, w) }"
    for labels in (wanted, wanted[:, 0]):
        fits = both(text, {"w": weight}, {"w": 0 * weight}, x, labels)["label_fit"]
        assert (fits.before, fits.after) == (pytest.approx(1, abs=1e-6), pytest.approx(0, abs=0.1))
    decided = "g (float[N,6] x) => (float[N,1] y) { z = MatMul (x, w) y = Sigmoid (z) }"
    for yes in (wanted > 0, (wanted > 0)[:, 0], (wanted[:, 0] > 0).astype(np.int64), (wanted > 0).astype(np.float32)):
        right = both(decided, {"w": weight}, {"w": 0 * weight + 1e-9}, x, yes)["top1"]
        other = np.mean((x @ (0 * weight + 1) > 0)[:, 0] == (wanted[:, 0] > 0))
        assert (right.before, right.after) == (1, pytest.approx(other))
        assert right.blind == pytest.approx(max(np.mean(wanted > 0), np.mean(wanted <= 0)))


def test_logits_said_to_be_probabilities_are_judged_at_0() -> None:
    """They were cut at a logit of a half, which is a probability of 0.62."""
    x, wanted = masks()
    said = OutputConfig(kinds=("y=probabilities",))
    text = """g (float[N,1,4,4] x) => (float[N,1,4,4] y) { y = Conv (x, w) }"""
    for weight in (0.3, 9.0):
        kernel = np.full((1, 1, 1, 1), weight)
        changes = both(text, {"w": kernel}, {"w": -kernel}, x, wanted.astype(np.float32), said)
        assert (changes["label_iou"].before, changes["label_iou"].after) == (1, 0)
    decided = "g (float[N,6] x) => (float[N,1] y) { y = MatMul (x, w) }"
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((50, 6)).astype(np.float32), 0.1 * rng.standard_normal((6, 1))
    changes = both(decided, {"w": weight}, {"w": -weight}, x, (x @ weight > 0).astype(np.int64), said)
    assert (changes["top1"].before, changes["top1"].after) == (1, 0)


def test_masks_may_leave_out_the_axis_of_their_only_channel() -> None:
    """Masks `(rows, H, W)` of an output `(rows, 1, H, W)` were refused."""
    x, wanted = masks()
    for labels in (wanted, wanted[:, 0], wanted[:, 0].astype(np.int64)):
        changes = both(MASKS.format("y = Sigmoid (h)"), {"w": np.float32(9)}, {"w": np.float32(-9)}, x, labels)
        assert (changes["label_iou"].before, changes["label_iou"].after) == (1, 0)


def test_several_labels_a_row_are_no_one_hot_labels() -> None:
    """A tagger's labels got the advice to give y.argmax(1)."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((60, 6)).astype(np.float32), rng.standard_normal((6, 4))
    text, tags = "g (float[N,6] x) => (float[N,4] y) { y = MatMul (x, w) }", x @ weight > 0
    with pytest.raises(InputError, match=r"a row may have several labels or none, say --output y=probabilities"):
        both(text, {"w": weight}, {"w": weight}, x, tags.astype(np.int64))
    said = OutputConfig(kinds=("y=probabilities",))
    changes = both(text, {"w": weight}, {"w": 9 * weight}, x, tags.astype(np.int64), said)
    assert (changes["label_iou"].before, changes["label_iou"].after) == (1, 1)
    assert (changes["labels_kept"].after, changes["same_highest"].after) == (1, 1)


def test_which_of_several_sure_tags_is_higher_says_nothing() -> None:
    """ "20.8 points less same most probable entry" of a tagger that lost no tag; a floor by that stopped at once."""
    x = np.random.default_rng(0).choice([-6.0, 6.0], (200, 4)).astype(np.float32)
    text = "g (float[N,4] x) => (float[N,4] y) { h = MatMul (x, w) y = Sigmoid (h) }"
    turned = np.diag([1.0, 1.1, 1.2, 1.3])
    changes = both(text, {"w": np.diag([1.3, 1.2, 1.1, 1.0])}, {"w": turned}, x)
    assert (changes["same_highest"].after, changes["labels_kept"].after) == (1, 1)
    lost = both(text, {"w": np.eye(4)}, {"w": np.diag([1, 1, 1, -1])}, x)
    assert lost["labels_kept"].rules, "a tag that always fails must count"
    assert lost["labels_kept"].after < 0.8
    single = np.where(np.eye(4, dtype=bool)[np.arange(200) % 4], 6, -6).astype(np.float32)
    one = both(text, {"w": np.eye(4)}, {"w": np.diag([1, 1, 1, -1])}, single)
    assert one["same_highest"].after == pytest.approx(0.75)
    assert not one["labels_kept"].rules
