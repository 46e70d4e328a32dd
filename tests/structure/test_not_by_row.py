"""What a row's result depends on besides the row is told: other rows in training mode, random numbers."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.report.inspection import inspection
from onnxprune.report.terminal import as_text, inspect_summary
from onnxprune.structure.coupling import analyse


def network(*, training: int) -> onnx.ModelProto:
    text = f"""g (float[N,3,8,8] x) => (float[N,4] y) {{
        h = Conv (x, w1)
        n{", running_mean, running_var" * training} = BatchNormalization <training_mode = {training}> (h, s, b, m, v)
        r = Relu (n) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm <transB = 1> (f, w2) }}"""
    ones = np.ones(16, np.float32)
    return example(text, {"w1": (16, 3, 3, 3), "w2": (4, 16)}, {"s": ones, "b": 0 * ones, "m": 0 * ones, "v": ones})


@pytest.mark.parametrize("training", [0, 1])
def test_training_mode_is_told(training):
    """A network exported without `eval()` was inspected and pruned without a word."""
    proto = network(training=training)
    rows = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    pruned = onnxprune.prune(proto, rows, targets="macs=0.6", importance="magnitude", repair=False, time=False)
    compared = onnxprune.validate(proto, proto, rows, time=False)
    shown = as_text(inspect_summary(inspection(analyse(load(proto)))), 1000)
    for warnings in (pruned.warnings, compared.warnings, shown.splitlines()):
        assert any("BatchNormalization" in w and "training mode" in w and "eval()" in w for w in warnings) == training


@pytest.mark.parametrize("noise", [False, True])
def test_random_numbers_are_told(noise):
    """An autoencoder with its sampling inside lost four times as much as without, and nothing said why."""
    drawn = "e = RandomNormalLike (h)  z = Add (h, e)" if noise else "z = Identity (h)"
    text = f"""g (float[N,6] x) => (float[N,4] y) {{
        a = Gemm (x, w0, b0)
        r = Relu (a)
        h = Gemm (r, w1, b1)
        {drawn}
        y = Gemm (z, w2, b2) }}"""
    proto = example(text, {"w0": (6, 16), "b0": (16,), "w1": (16, 8), "b1": (8,), "w2": (8, 4), "b2": (4,)})
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    pruned = onnxprune.prune(proto, rows, targets="macs=0.6", importance="magnitude", repair=False, time=False)
    shown = as_text(inspect_summary(inspection(analyse(load(proto)))), 1000)
    for warnings in (pruned.warnings, shown.splitlines()):
        assert any("may draw random numbers" in w and "RandomNormalLike" in w for w in warnings) == noise
