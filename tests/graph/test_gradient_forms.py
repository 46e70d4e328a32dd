"""Gradients of forms that the handlers' own examples lack, held against torch."""

import numpy as np
import onnx
import pytest
from oracle import analysed, random_feed, run
from test_gradient import channels_of, products, with_factor

from onnxprune.graph.load import load
from onnxprune.ops.examples import example

# Between a convolution `h` of 8 channels, 5 by 6, and one that reads what is left of them.
IMAGES = {
    "t = MaxPool <kernel_shape = [2, 2], strides = [2, 2], pads = [1, 0, 0, 1]> (h)",
    "t = AveragePool <kernel_shape = [3, 2], pads = [1, 0, 1, 1], count_include_pad = 1> (h)",
    "t = AveragePool <kernel_shape = [3, 2], pads = [1, 0, 1, 1]> (h)",
    "t = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (h)",
    "t = GlobalMaxPool (h)",
    "t = GlobalAveragePool (h)",
    "t = ReduceMean <keepdims = 1> (h, rows)",
    "t = ReduceSum <keepdims = 1> (h, rows)",
    "s = ReduceSum <keepdims = 0> (h, rows) t = Unsqueeze (s, rows)",
    "s = Gather <axis = 2> (h, one) t = Unsqueeze (s, rows)",
    "t = Gather <axis = 3> (h, twice)",
    "t = Slice (h, starts, ends, rows, steps)",
    "a, b, c = Split <axis = 2> (h, parts) s = Mul (a, b) u = Relu (c) v = Concat <axis = 2> (s, u) t = Neg (v)",
    "t = Conv <group = 8, strides = [2, 1], dilations = [1, 2], pads = [1, 1, 0, 1]> (h, depthwise)",
    "t = ConvTranspose <group = 8, strides = [2, 1], pads = [1, 0, 0, 1]> (h, depthwise)",
    "m = Mul (h, h) s = ReduceSum <keepdims = 1> (m, all) t = Div (h, s)",
    "t = Sub (column, h)",
    "t = Where (mask, h, column)",
    "t = Where (mask, column, h)",
    "s = Sigmoid (h) t = Max (s, column)",
    "s = Sigmoid (h) t = Min (column, s)",
    "t = Transpose <perm = [0, 1, 3, 2]> (h)",
    "n = BatchNormalization (h, scale, shift, mean, var) t = PRelu (n, slopes)",
    "t = Expand (h, wide)",
}
# Element by element, on a vector of 8 channels.
CURVES = {
    "t = Elu <alpha = 0.7> (h)",
    "t = HardSigmoid <alpha = 0.3, beta = 0.4> (h)",
    "t = HardSwish (h)",
    "t = Softplus (h)",
    "t = ThresholdedRelu <alpha = 0.3> (h)",
    "t = Gelu (h)",
    "t = Erf (h)",
    "t = Exp (h)",
    "s = Exp (h) t = Log (s)",
    "s = Exp (h) t = Sqrt (s)",
    "s = Exp (h) t = Reciprocal (s)",
    "s = Exp (h) t = Pow (s, exponent)",
    "t = Clip (h, low, high)",
    "t = Abs (h)",
    "t = LogSoftmax <axis = 1> (h)",
    "t = Softmax <axis = 1> (h)",
    "t = Dropout (h)",
}
CONSTANTS = {
    "rows": np.array([2]),
    "one": np.array(1),
    "twice": np.array([0, -1, 0]),
    "starts": np.array([-1]),
    "ends": np.array([-100]),
    "steps": np.array([-2]),
    "parts": np.array([2, 2, 1]),
    "all": np.array([1, 2, 3]),
    "mask": np.arange(6) % 2 == 0,
    "column": np.linspace(0.2, 0.9, 8, dtype=np.float32).reshape(8, 1, 1),
    "wide": np.array([1, 8, 5, 6]),
    "exponent": np.float32(1.5),
    "low": np.float32(-0.5),
    "high": np.float32(0.4),
    "scale": np.linspace(0.5, 2, 8, dtype=np.float32),
    "shift": np.linspace(-0.3, 0.3, 8, dtype=np.float32),
    "mean": np.linspace(0.1, -0.1, 8, dtype=np.float32),
    "var": np.linspace(0.5, 1.5, 8, dtype=np.float32),
    "slopes": np.linspace(0.1, 0.6, 8, dtype=np.float32).reshape(8, 1, 1),
}


def image_network(nodes: str, opset: int = 20) -> onnx.ModelProto:
    return example(
        f"""g (float[N,3,7,8] x) => (float[N,4,A,B] y) {{
        h = Conv (x, w1)
        {nodes}
        y = Conv (t, w2) }}""",
        {"w1": (8, 3, 3, 3), "depthwise": (8, 1, 3, 2), "w2": (4, 8, 1, 1)},
        CONSTANTS,
        opset=opset,
    )


def vector_network(nodes: str) -> onnx.ModelProto:
    return example(
        f"g (float[N,6] x) => (float[N,3] y) {{ h = Gemm (x, w1) {nodes} y = Gemm (t, w2) }}",
        {"w1": (6, 8), "w2": (8, 3)},
        CONSTANTS,
        opset=20,
    )


@pytest.mark.parametrize(
    "proto",
    [pytest.param(image_network(nodes), id=nodes) for nodes in sorted(IMAGES)]
    + [pytest.param(image_network(f"t = Softmax{axis} (h)", 13), id=f"13{axis}") for axis in ("", " <axis = 1>")]
    + [pytest.param(vector_network(nodes), id=nodes) for nodes in sorted(CURVES)],
)
def test_gradients_of_more_forms_are_those_of_torch(proto: onnx.ModelProto) -> None:
    torch = pytest.importorskip("torch", reason="torch is what gradients are held against")
    from onnxprune.torchnet.network import Network

    a = analysed(proto)
    rng = np.random.default_rng(0)
    feed = random_feed(a, rng, 2)
    direction = rng.standard_normal(run(a.model, feed)[0].shape).astype(np.float32)
    found = products(a, feed, direction, {"h": channels_of(a)["h"]})["h"]
    shape = [8 if axis == 1 else 1 for axis in range(len(a.shape("h")))]
    factor = torch.ones(shape, requires_grad=True)
    network = Network(load(with_factor(proto, "h", shape)), ["y"])
    result = network({**network.inputs(feed), "factor": factor})["y"]
    (gradient,) = torch.autograd.grad((result * torch.from_numpy(direction)).sum(), factor)
    expected = gradient.reshape(-1).numpy()
    np.testing.assert_allclose(found.sum(0), expected, atol=2e-3 * np.abs(expected).max())
