"""A small network, and ways to make some of its units constant or copies of others."""

import numpy as np
from onnx import numpy_helper

from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.ops.examples import example

CHAIN = """g (float[N,3,6,6] x) => (float[N,4] y) {
    s = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    n = BatchNormalization (s, scale, bias, mean, var)
    a = Relu (n)
    h = Conv <pads = [PADS]> (a, w1, b1)
    r = Relu (h)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm (f, w2, b2) }"""
WEIGHTS = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (6, 8, 3, 3), "b1": (6,), "w2": (6, 4), "b2": (4,)} | dict.fromkeys(
    ("scale", "bias", "mean", "var"), (8,)
)


def build(pads, change):
    proto = example(CHAIN.replace("PADS", ", ".join([str(pads)] * 4)), WEIGHTS)
    weights = {t.name: np.array(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    change(weights)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return proto


def assert_same(model, other, seed=0):
    x = np.random.default_rng(seed).standard_normal((7, 3, 6, 6)).astype(np.float32) * 3
    a, b = (Runner(m, engine=ONE_CORE).run_feed({"x": x})["y"] for m in (model, other))
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


def silent(weights):
    weights["scale"][[2, 5]] = 0.0
    weights["bias"][[2, 5]] = (-1.0, -0.5)


def constant(weights):
    weights["w0"][4] = 0.0
    weights["scale"][4], weights["bias"][4] = 1.0, 3.0


def never_positive(weights):
    weights["w1"][1], weights["b1"][1] = -np.abs(weights["w1"][1]), -0.25


def twins(weights):
    for name in ("w0", "b0", "scale", "bias", "mean", "var"):
        weights[name][6] = weights[name][3]
