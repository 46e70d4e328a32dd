"""Made-up rows: smooth as images and sound are, of any input's shape, the same for a seed, and said to be no data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.synthetic import synthetic_array
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.runtime.feeds import random_array

MODELS = Path(__file__).resolve().parents[2] / "models"


def made(*size: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return synthetic_array(np.random.default_rng(seed), np.dtype(dtype), size)


def likeness(values: np.ndarray, axis: int) -> float:
    """Correlation of neighbours along an axis."""
    moved = np.moveaxis(values.astype(np.float64), axis, -1)
    return float(np.corrcoef(moved[..., 1:].ravel(), moved[..., :-1].ravel())[0, 1])


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4), st.sampled_from([np.float32, np.float16, np.uint8, np.int64])
)
def test_any_shape_and_type_can_be_made(sizes: list[int], dtype: type) -> None:
    array = made(3, *sizes, dtype=dtype)
    assert array.shape == (3, *sizes)
    assert array.dtype == dtype
    assert np.isfinite(array.astype(np.float64)).all()
    assert np.array_equal(array, made(3, *sizes, dtype=dtype))


SMOOTH = {
    "channels first": ((3, 24, 32), (2, 3)),
    "channels last": ((24, 32, 3), (1, 2)),
    "signal": ((200,), (1,)),
    "stereo": ((2, 200), (2,)),
}


@pytest.mark.parametrize(("size", "smooth"), SMOOTH.values(), ids=[*SMOOTH])
def test_neighbours_are_alike(size: tuple[int, ...], smooth: tuple[int, ...]) -> None:
    array = made(20, *size)
    for axis in smooth:
        assert likeness(array, axis) > 0.6
        assert abs(likeness(random_array(np.random.default_rng(0), array.dtype, array.shape), axis)) < 0.1
    assert 0.5 < array.std() < 1.5


def test_channels_mostly_agree() -> None:
    array = made(20, 3, 32, 32)
    assert np.corrcoef(array[:, 0].ravel(), array[:, 1].ravel())[0, 1] > 0.5


def test_bytes_fill_their_range() -> None:
    array = made(20, 16, 16, 3, dtype=np.uint8)
    assert array.min() < 30
    assert array.max() > 225


def test_what_has_no_neighbours_is_random() -> None:
    for size, dtype in (((50, 6), np.float32), ((50, 12), np.int64)):
        expected = random_array(np.random.default_rng(0), np.dtype(dtype), size)
        assert np.array_equal(made(*size, dtype=dtype), expected)


def test_rows_of_all_inputs_are_made_and_said_to_be_no_data() -> None:
    text = "g (float[N,3,16,16] x, int64[N,4] i) => (float[N,3,16,16] y) { y = Identity (x) }"
    data = load_data("synthetic", load(example(text)))
    assert {name: array.shape for name, array in data.arrays.items()} == {"x": (200, 3, 16, 16), "i": (200, 4)}
    assert "smooth noise with edges and tones and numbers drawn at random), no data" in data.warnings[0]
    assert len(load_data("synthetic", load(example(text)), limit=7)) == 7


def test_made_up_tokens_are_no_smooth_noise() -> None:
    """A model of tokens was said to get smooth noise with edges and tones."""
    text = "g (int64[N,16] i) => (int64[N,16] y) { y = Identity (i) }"
    (warning,) = load_data("synthetic", load(example(text))).warnings
    assert "numbers drawn at random" in warning
    assert "edges" not in warning


def test_a_network_for_images_loses_less_by_them_than_by_noise() -> None:
    with np.load(MODELS / "mnist_test.npz") as held:
        digits = held["x"][:500], held["y"][:500]
    accuracy = [
        onnxprune.prune(
            MODELS / "lenet5_mnist.onnx", data, evaluation=digits, targets="macs=0.5", images=64, time=False
        ).metrics["top1"].after
        for data in ("random", "synthetic")
    ]  # fmt: skip
    assert accuracy[1] > max(accuracy[0] + 0.05, 0.8)
