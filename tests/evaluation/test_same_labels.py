"""Whole numbers that stand for something are judged one by one, too."""

import numpy as np
import pytest

from onnxprune.evaluation.same_labels import SameLabels
from onnxprune.outputs.meaning import Part


def changes(ours: np.ndarray, others: np.ndarray) -> dict[str, tuple[float, str]]:
    meter = SameLabels(Part("y", "labels", axis=0))
    for at in (0, 1):  # in two batches
        meter.add({"y": ours[at::2]}, {"y": others[at::2]})
    return {name: (change.after, change.detail) for name, change in meter.changes().items()}


def test_a_label_that_is_given_up_is_told() -> None:
    """Nearly all of a mask is background: 0.93 points fewer equal labels, and a quarter of a class was lost."""
    ours = np.zeros((10, 100), np.uint8)
    ours[:, :3], ours[:, 3:6] = 1, 2
    others = ours.copy()
    others[:, 2] = 0
    found = changes(ours, others)
    assert found["same_labels"][0] == pytest.approx(0.99)
    assert found["worst_class"] == (pytest.approx(2 / 3), "label 1, 30 of 1000")


def test_many_numbers_are_counted_together() -> None:
    ours = np.arange(10_000).reshape(10, 1000)
    assert changes(ours, ours) == {"same_labels": (1.0, "")}


def test_nothing_lost_is_no_worst_label() -> None:
    ours = np.tile([0, 1], (10, 50))
    assert changes(ours, ours)["worst_class"] == (1.0, "")
