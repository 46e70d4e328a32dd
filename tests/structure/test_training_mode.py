"""A file that was exported in training mode is told of."""

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
