"""Detectors that say apart whether there is something, and of which class."""

import numpy as np
import pytest

from onnxprune.evaluation.meters import meters
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.meaning import Meaning, Part
from onnxprune.outputs.objectness import confidence, has_objectness

ROWS, PLACES, CLASSES = 12, 50, 4
PARTS = (
    Part("y", "quantities", axis=2, columns=(0, 1, 2, 3), width=4, positions=(PLACES,), confidence=(1,)),
    Part("y", "probabilities", axis=2, columns=tuple(range(4, 5 + CLASSES)), width=1 + CLASSES, form="probabilities"),
)
MEANING = Meaning({"y": 0}, PARTS, (0.5, 0.5))


def detections(seed: int = 0, *, objects: int = 3) -> np.ndarray:
    """Boxes, objectness and classes: objects at the first places, and classes that are high everywhere."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(10, 20, (ROWS, PLACES, 4))
    scores = rng.uniform(0.1, 0.9, (ROWS, PLACES, 1 + CLASSES))
    scores[..., 0] = 0.01
    scores[:, :objects, 0] = 0.9
    return np.concatenate([boxes, scores], axis=2)


def test_classes_that_are_high_everywhere_are_no_detections() -> None:
    """1349 of 1350 places of images without any object counted as detections that were found again."""
    values = detections()[..., 4:]
    assert has_objectness(values)
    assert np.count_nonzero(confidence(values, True) > 0.25) <= 3 * ROWS
    (_, meter), *others = meters(MEANING)
    assert not others
    lost = detections()
    lost[..., 4] = 0.01
    meter.add({"y": detections()}, {"y": lost})
    found = meter.changes()["found_again"]
    assert found.after == 0
    assert int(found.detail.split()[1]) <= 3 * ROWS


def test_sparse_classes_without_an_objectness_stay_so() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 0.1, (ROWS, PLACES, CLASSES))
    values[:, :3, 1:] = 0.9
    assert not has_objectness(values)
    np.testing.assert_array_equal(confidence(values, False), values.max(axis=2))


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_nothing_at_all_tells_no_objectness(columns: int) -> None:
    assert not has_objectness(np.zeros((ROWS, PLACES, columns)))
    assert not has_objectness(np.zeros((0, PLACES, columns)))


def test_what_classes_say_of_nothing_hardly_counts() -> None:
    reference = Reference(MEANING, {"y": detections()})
    where_objects, elsewhere = detections(), detections()
    where_objects[:, :3, 5:] = 1 - where_objects[:, :3, 5:]
    elsewhere[:, 3:6, 5:] = 1 - elsewhere[:, 3:6, 5:]
    assert reference.divergence({"y": where_objects}) > 20 * reference.divergence({"y": elsewhere}) > 0
    assert reference.divergence({"y": detections()}) == pytest.approx(0, abs=1e-12)
