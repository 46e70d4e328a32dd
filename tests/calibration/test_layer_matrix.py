"""Rows and matrices of layers give the layers' own outputs."""

import numpy as np
import onnxruntime as ort
import pytest

from onnxprune.calibration.layer_matrix import from_matrix, input_rows, output_rows, positions, to_matrix
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

LAYERS = {
    "conv": ("h = Conv <pads = [1, 2, 0, 1], strides = [2, 1], dilations = [1, 2]> (x, w)", (6, 4, 3, 2)),
    "same": ('h = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', (6, 4, 3, 3)),
    "grouped": ("h = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w)", (6, 2, 3, 3)),
    "depthwise": ("h = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)", (8, 1, 3, 3)),
    "transposed": ("h = ConvTranspose <strides = [2, 3], pads = [1, 0, 1, 1]> (x, w)", (4, 5, 3, 4)),
    "output padding": ("h = ConvTranspose <strides = [2, 2], output_padding = [1, 1]> (x, w)", (4, 5, 3, 3)),
    "transposed same": ('h = ConvTranspose <strides = [2, 3], auto_pad = "SAME_UPPER"> (x, w)', (4, 5, 3, 4)),
    "transposed same lower": ('h = ConvTranspose <strides = [2, 2], auto_pad = "SAME_LOWER"> (x, w)', (4, 5, 3, 5)),
    "transposed to a size": ("h = ConvTranspose <strides = [2, 2], output_shape = [12, 13]> (x, w)", (4, 5, 3, 5)),
    "transposed grouped": ("h = ConvTranspose <group = 2, strides = [2, 2]> (x, w)", (4, 3, 2, 2)),
    "matmul": ("h = MatMul (x, w)", (7, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_columns_times_matrix_are_the_layers_output(name):
    text, shape = LAYERS[name]
    proto = example(f"g (float[2,4,6,7] x) => (float[A,B,C,D] h) {{ {text} }}", {"w": shape})
    model = load(proto)
    (layer,) = analyse(model).layers
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 7)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    at = positions(layer, y.shape, 50, np.random.default_rng(1))
    product = np.matmul(input_rows(layer, x, at), to_matrix(layer, model.constants["w"]))
    rows = product.transpose(1, 0, 2).reshape(len(at.chosen), -1)
    np.testing.assert_allclose(rows, output_rows(layer, y, at), atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_matrix_goes_back_to_the_weight(name):
    text, shape = LAYERS[name]
    model = load(example(f"g (float[2,4,6,7] x) => (float[A,B,C,D] h) {{ {text} }}", {"w": shape}))
    (layer,) = analyse(model).layers
    weight = model.constants["w"]
    np.testing.assert_array_equal(from_matrix(layer, to_matrix(layer, weight), weight), weight)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_weights_either_way_round(transposed):
    shape = (5, 6) if transposed else (6, 5)
    proto = example(f"g (float[9,6] x) => (float[9,5] h) {{ h = Gemm <transB = {transposed}> (x, w) }}", {"w": shape})
    model = load(proto)
    (layer,) = analyse(model).layers
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    at = positions(layer, (9, 5), 4, np.random.default_rng(1))
    assert len(set(at.chosen)) == 4
    weight = model.constants["w"]
    expected = x @ (weight.T if transposed else weight)
    np.testing.assert_allclose(
        input_rows(layer, x, at)[0] @ to_matrix(layer, weight)[0], expected[at.chosen], atol=1e-5
    )
    np.testing.assert_array_equal(from_matrix(layer, to_matrix(layer, weight), weight), weight)
