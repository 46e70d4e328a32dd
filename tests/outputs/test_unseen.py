"""A detector that finds nothing on any calibration row has shown nothing of what it does."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.ops.examples import example


def detector(bias: float) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weights = {"w": generator.normal(size=(16, 3, 3, 3)), "v": generator.normal(size=(2, 16, 1, 1)) / 8}
    text = "x = Conv<pads=[1,1,1,1]> (image, w) y = Relu (x) z = Conv (y, v, b) scores = Sigmoid (z)"
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> detector (float[N,3,12,12] image) => (float[N,2,12,12] scores) '
        f"{{ {text} }}"
    )
    constants = {name: array.astype(np.float32) for name, array in weights.items()} | {
        "b": np.full(2, bias, np.float32)
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return model


@pytest.mark.parametrize(("bias", "warned"), [(-9.0, True), (-1.0, False)])
def test_a_warning_where_nothing_is_found(bias: float, warned: bool) -> None:
    rows = np.random.default_rng(1).random((70, 3, 12, 12), np.float32)
    result = onnxprune.prune(detector(bias), rows, targets="macs=0.8", importance="magnitude", time=False)
    told = [warning for warning in result.warnings if "finds nothing on 70 calibration rows" in warning]
    assert len(told) == warned
    if warned:
        assert "'scores'" in told[0]


@pytest.mark.parametrize(("bright", "warned"), [(0, "nothing"), (1, "12 places"), (5, "")])
def test_a_few_false_alarms_are_no_finds(bright: int, warned: str) -> None:
    """Ten of them on rows without objects, and nothing was said: the detector lost a tenth of its objects."""
    text = "g (float[N,3,12,12] x) => (float[N,1,12,12] y) { h = Conv (x, w)  r = Relu (h)  z = Conv (r, v, b)  y = Sigmoid (z) }"  # noqa: E501
    constants = {"w": np.ones((8, 3, 1, 1)), "v": np.ones((1, 8, 1, 1)), "b": np.full(1, -9.0)}
    proto = example(text, constants={name: array.astype(np.float32) for name, array in constants.items()})
    rows = np.zeros((70, 3, 12, 12), np.float32)
    rows[:bright, :, 3, :] = 1
    result = onnxprune.prune(proto, rows, targets="macs=0.8", importance="magnitude", repair=False, time=False)
    told = [warning for warning in result.warnings if "give rows with something to find" in warning]
    assert len(told) == bool(warned)
    assert all(warned in each for each in told)


def test_masks_of_several_classes_have_no_objectness() -> None:
    """The first of them may be rare where another is everywhere."""
    text = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { h = Conv (x, w)  r = Relu (h)  z = Conv (r, v, b)  y = Sigmoid (z) }"  # noqa: E501
    constants = {"w": np.ones((8, 3, 1, 1)), "v": np.zeros((3, 8, 1, 1)), "b": np.array([-9.0, 5.0, -9.0])}
    proto = example(text, constants={name: array.astype(np.float32) for name, array in constants.items()})
    rows = np.random.default_rng(0).random((40, 3, 8, 8), np.float32)
    result = onnxprune.prune(proto, rows, targets="macs=0.8", importance="magnitude", repair=False, time=False)
    assert not any("give rows with something to find" in warning for warning in result.warnings)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_one_answer_for_every_row_is_told(scale: float) -> None:
    """A broken original at the accuracy of one class was said to be kept: "the same answers as the original"."""
    weights = np.random.default_rng(0).standard_normal((2, 16, 6)).astype(np.float32)
    text = "g (float[N,6] x) => (float[N,16] y) { z = Mul (x, s) h = Gemm (z, v) r = Relu (h) y = Gemm (r, w, b) }"
    constants = {"s": np.float32(scale), "v": weights[0].T, "w": np.ones((16, 16), np.float32), "b": weights[1, :, 0]}
    proto = example(text, constants={name: np.asarray(array) for name, array in constants.items()})
    rows = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    pruned = onnxprune.prune(proto, rows, targets=0.8, importance="magnitude", repair=False, time=False)
    compared = onnxprune.validate(proto, proto, (rows, np.arange(40) % 16), time=False)
    for warnings in (pruned.warnings, compared.warnings):
        assert any("gives the same outputs for all of 16 rows" in warning for warning in warnings) == (scale == 0)
