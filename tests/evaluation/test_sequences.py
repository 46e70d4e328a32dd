"""Rows that read the same, where most steps say nothing."""

import numpy as np
import pytest
from classifiers import both

from onnxprune.evaluation.sequences import Sequences, is_sequence
from onnxprune.outputs.meaning import Part

PART = Part("y", "classes", axis=2, width=4, positions=(8,))


def scores(*rows: str) -> dict[str, np.ndarray]:
    return {"y": np.eye(4)[[[int(step) for step in row] for row in rows]]}


def share(ours: dict[str, np.ndarray], others: dict[str, np.ndarray], real: np.ndarray | None = None) -> float | None:
    meter = Sequences(PART)
    meter.add(ours, others, real)
    found = meter.changes()
    return found["same_sequences"].after if found else None


def test_a_line_with_a_wrong_letter_is_wrong() -> None:
    """Agreement fell by 0.8 points, and `--max-drop 1` passed: one line of four was read otherwise."""
    lines = scores("00102030", "00010000", "00000033", "01100200")
    assert share(lines, lines) == 1.0
    shifted = scores("01110233", "10000000", "00000030", "01000220")
    assert share(lines, shifted) == 1.0
    assert share(lines, scores("00102030", "00010000", "00000030", "01100000")) == 0.75
    assert share(lines, scores(*["00000000"] * 4)) == 0.0


def test_steps_without_numbers_read_nothing_right() -> None:
    lines = scores("00102030", "00010000", "00000033", "01100200")
    assert share(lines, {"y": np.full((4, 8, 4), np.nan)}) == 0.0


def test_letters_that_repeat_are_told_by_what_is_between() -> None:
    assert share(scores("00100100"), scores("00111100")) == 0.0


def test_padding_reads_nothing() -> None:
    real = np.arange(8)[None] < 5
    assert share(scores("00102000"), scores("00102333"), real) == 1.0


def test_without_a_usual_class_rows_need_not_be_the_same() -> None:
    assert share(scores("01230123"), scores("01230122")) is None
    assert share(scores("00000000"), scores("00000000")) is None


def test_only_steps_are_read() -> None:
    assert is_sequence(PART)
    assert not is_sequence(Part("y", "classes", axis=1, width=4, positions=(8, 8)))
    assert not is_sequence(Part("y", "classes", axis=1, width=4))


def test_recognised_lines_rule_beside_the_steps() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 12, 5)).astype(np.float32)
    text = (
        "g (float[N,12,5] x) => (float[N,12,3] y) { h = MatMul (x, w)  s = Add (h, b)  y = LogSoftmax <axis = 2> (s) }"
    )
    first = {"w": rng.standard_normal((5, 3)), "b": np.array([3.0, 0, 0])}
    second = {"w": first["w"] + 0.1 * rng.standard_normal((5, 3)), "b": first["b"]}
    changes = both(text, first, second, x)
    assert changes["same_sequences"].after < changes["agreement"].after < 1
    assert changes["same_sequences"].rules
    assert changes["agreement"].rules
    assert changes["same_sequences"].before == pytest.approx(1)
