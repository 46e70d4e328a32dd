"""Rows that look prepared already, or like bytes that nobody prepared, are told."""

import numpy as np
import pytest

from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.graph.load import load
from onnxprune.ops.examples import example

RNG = np.random.default_rng(0)
WHOLE = RNG.integers(0, 256, (9, 3, 8, 8)).astype(np.float32)
NORMED = PreprocessConfig(mean=(0.5,), std=(0.25,))


def read(rows: np.ndarray, preprocess: PreprocessConfig | None = None):
    sizes = ",".join(map(str, rows.shape[1:]))
    model = load(example(f"g (float[N,{sizes}] x) => (float[N,{sizes}] y) {{ y = Relu (x) }}"))
    return load_data(rows, model, preprocess)


@pytest.mark.parametrize("rows", [WHOLE, WHOLE.reshape(9, 192), np.minimum(WHOLE * 0.9375, 255)])
def test_bytes_stored_as_floats_are_told(rows):
    """Images of 0 to 255 were noted where they were bytes, and not where they were the same numbers as floats."""
    assert any("of 0 to 255, stored as floats" in note for note in read(rows).notes)
    assert not read(rows, PreprocessConfig(scale=1 / 255)).notes


@pytest.mark.parametrize("rows", [WHOLE / 255, WHOLE % 10, WHOLE[:, 0, 0], WHOLE - 100, WHOLE * 300])
def test_other_floats_are_not_taken_for_bytes(rows):
    assert not read(rows).notes


def test_bytes_stored_as_floats_are_not_divided():
    """A mean of 0.5 was taken from values of 0 to 255."""
    (warning,) = read(WHOLE, NORMED).warnings
    assert "not divided by 255 before --mean" in warning
    assert not read(WHOLE, PreprocessConfig(mean=(0.5,), std=(0.25,), scale=1 / 255)).warnings
    assert not read(WHOLE, PreprocessConfig(mean=(128.0,), std=(64.0,))).warnings


def test_a_scale_for_bytes_on_floats_up_to_one_is_told():
    assert "look prepared already" in read(WHOLE / 255, PreprocessConfig(scale=1 / 255)).warnings[0]


def test_features_may_be_standardised_by_the_options():
    """Numbers that are no images may lie below 0 before anything is done to them; standardised ones are told."""
    features = RNG.standard_normal((40, 6)).astype(np.float32)
    assert not read(20 * features - 30, NORMED).warnings
    assert "look prepared already" in read(features, NORMED).warnings[0]
