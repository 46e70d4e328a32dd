"""Calibration and evaluation rows of two scales are one mistake, found before any work."""

import numpy as np
import pytest

import onnxprune
from onnxprune.core.errors import InputError
from onnxprune.ops.examples import example

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
FLOATS = (BYTES / 255).astype(np.float32)
OPTIONS = {"targets": 0.6, "importance": "magnitude", "repair": False, "time": False, "threads": 1}
READY = (FLOATS - 0.5) / 0.25
SPREAD_ONLY = onnxprune.PreprocessConfig(std=(0.25,))
PREPARED = onnxprune.PreprocessConfig(mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def network():
    text = """g (float[N,3,8,8] x) => (float[N,4] y) {
        h = Conv (x, w1) r = Relu (h) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm <transB = 1> (f, w2) }"""
    return example(text, {"w1": (16, 3, 3, 3), "w2": (4, 16)})


@pytest.mark.parametrize(
    ("calibration", "evaluation"),
    [(BYTES, FLOATS), (FLOATS, BYTES), (BYTES.astype(np.float32), FLOATS), (BYTES, (FLOATS - 0.45) / 0.22)],
)
def test_two_scales_are_refused(network, calibration, evaluation):
    """Bytes were fed as they are beside prepared floats, and the accuracy of noise was reported."""
    with pytest.raises(
        InputError, match=r"values of .* to .* in .* and of .*: the model takes one scale.*preprocess\.scale"
    ):
        onnxprune.prune(network, calibration, evaluation=evaluation, **OPTIONS)
    points = onnxprune.SweepConfig(points=1, latency=False)
    with pytest.raises(InputError, match="one scale"):
        onnxprune.sweep(network, calibration, evaluation=evaluation, points=points)


@pytest.mark.parametrize(
    ("calibration", "evaluation", "preprocess"),
    [
        (BYTES, BYTES[:9], None),
        (FLOATS, FLOATS[::2], None),
        (BYTES, BYTES, PREPARED),
        (BYTES, FLOATS, PREPARED),
        (FLOATS, np.zeros_like(FLOATS), None),
    ],
)
def test_one_scale_is_taken(network, calibration, evaluation, preprocess):
    result = onnxprune.prune(network, calibration, evaluation=evaluation, preprocess=preprocess, **OPTIONS)
    assert result.metrics


@pytest.mark.parametrize(("calibration", "evaluation"), [(BYTES, READY), (READY, BYTES), (BYTES, 4 * FLOATS)])
def test_prepared_floats_beside_bytes_are_not_prepared_again(network, calibration, evaluation):
    """Floats that were normalised already were normalised once more, and top-1 fell by 30 points without a word."""
    preprocess = PREPARED if (evaluation if calibration is BYTES else calibration).min() < 0 else SPREAD_ONLY
    with pytest.raises(InputError, match=r"look prepared already, and preprocess\.mean.* once more; store both"):
        onnxprune.prune(network, calibration, evaluation=evaluation, preprocess=preprocess, **OPTIONS)
    points = onnxprune.SweepConfig(points=1, latency=False)
    with pytest.raises(InputError, match="look prepared already"):
        onnxprune.sweep(network, calibration, evaluation=evaluation, preprocess=preprocess, points=points)


def test_prepared_floats_that_choose_the_epoch_are_not_prepared_again(network):
    """`finetune` compared nothing: bytes trained, and floats prepared twice chose the epoch."""
    with pytest.raises(InputError, match="look prepared already"):
        onnxprune.finetune(network, BYTES, teacher=network, validation=READY, preprocess=PREPARED)


def test_prepared_floats_alone_are_warned_of(network):
    """`validate --mean --std` on prepared floats gave the accuracy of noise, and said nothing."""
    found = onnxprune.validate(network, network, READY, preprocess=PREPARED, time=False)
    assert any("look prepared already" in warning and "preprocess.mean" in warning for warning in found.warnings)
    for data, preprocess in ((READY, None), (FLOATS, PREPARED), (BYTES, PREPARED)):
        assert not onnxprune.validate(network, network, data, preprocess=preprocess, time=False).warnings


def test_numbers_that_are_no_images_may_be_of_any_size():
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1) r = Relu (h) y = Gemm (r, w2) }"
    proto = example(text, {"w1": (6, 8), "w2": (8, 3)})
    rows = RNG.standard_normal((40, 6)).astype(np.float32)
    assert onnxprune.prune(proto, rows, evaluation=1000 * rows, **OPTIONS).metrics


def test_random_rows_have_no_scale(network):
    """Noise stands for rows that nobody has; beside images of 0 to 255 it was refused."""
    images = BYTES.astype(np.float32)
    result = onnxprune.prune(network, "random", evaluation=(images, np.arange(40) % 4), **OPTIONS)
    assert "top1" in result.metrics
