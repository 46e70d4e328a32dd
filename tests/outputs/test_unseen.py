"""A detector that finds nothing on any calibration row has shown nothing of what it does."""

import numpy as np
import onnx
import pytest

import onnxprune


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
