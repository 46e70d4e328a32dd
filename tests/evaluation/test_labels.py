"""Which outputs labels are compared with."""

import numpy as np
import pytest
from classifiers import both

from onnxprune.core.errors import InputError
from onnxprune.core.text import main_metric

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
