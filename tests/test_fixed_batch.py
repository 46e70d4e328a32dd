"""Models whose batch is written into the file: analysed at it, rows regrouped to it, the last ones padded."""

import numpy as np
import onnx
import pytest
from oracle import analysed

import onnxprune
from onnxprune.ops.examples import example

WEIGHTS = {"w1": (16, 3, 3, 3), "w2": (64, 576), "w3": (64, 5)}


def network(batch: int | str) -> onnx.ModelProto:
    """A Reshape spells out the batch."""
    return example(
        f"""g (float[{batch},3,8,8] x) => (float[{batch},5] y) {{
        h = Conv (x, w1)
        r = Relu (h)
        f = Reshape (r, shape)
        d = Gemm <transB = 1> (f, w2)
        q = Relu (d)
        y = Gemm (q, w3) }}""",
        WEIGHTS,
        {"shape": np.array([batch if isinstance(batch, int) else -1, 576])},
    )


def merged(batch: int) -> onnx.ModelProto:
    """Rows and places are one axis for a while, as in a vision transformer."""
    return example(
        f"""g (float[{batch},3,8,8] x) => (float[{batch},5] y) {{
        h = Conv <strides = [4, 4], kernel_shape = [4, 4]> (x, w1)
        r = Reshape (h, joined)
        t = Transpose <perm = [0, 2, 1]> (r)
        f = Reshape (t, rows)
        d = Gemm (f, w2)
        q = Relu (d)
        s = Reshape (q, apart)
        p = ReduceMean <axes = [1], keepdims = 0> (s)
        y = Gemm (p, w3) }}""",
        {"w1": (16, 3, 4, 4), "w2": (16, 24), "w3": (24, 5)},
        {
            "joined": np.array([batch, 16, 4]),
            "rows": np.array([batch * 4, 16]),
            "apart": np.array([batch, 4, 24]),
        },
    )


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("count", [64, 10, 3])
@pytest.mark.parametrize("build", [network, merged])
def test_rows_are_regrouped_to_the_batch_that_the_file_declares(build, count):
    result = onnxprune.prune(build(4), rows(count), targets="macs=0.6")
    assert result.after.macs <= 0.6 * result.before.macs
    assert result.after.macs > 0.3 * result.before.macs
    dims = result.proto.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_value == 4


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_costs_are_those_of_one_row(batch):
    assert analysed(network(batch)).costs() == analysed(network("N")).costs()
    assert analysed(merged(batch)).costs().macs == 4 * 16 * 48 + 4 * 16 * 24 + 24 * 5


def test_rows_of_another_batch_do_not_change_the_analysis():
    a = analysed(network(4), {"x": (1, 3, 8, 8)})
    assert a.facts.shapes["x"] == (4, 3, 8, 8)
    assert a.prunable == 80


@pytest.mark.parametrize("count", [6, 9, 70])
def test_a_last_group_of_fewer_rows_counts_where_activations_are_multiplied(count):
    proto = example(
        """g (float[4,6,8] x) => (float[4,6,3] y) {
        q = MatMul (x, w1) k = MatMul (x, w2) t = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, t) p = Softmax (s) v = MatMul (x, w3)
        o = MatMul (p, v) y = MatMul (o, w4) }""",
        {"w1": (8, 16), "w2": (8, 16), "w3": (8, 16), "w4": (16, 3)},
    )
    x = np.random.default_rng(0).standard_normal((count, 6, 8)).astype(np.float32)
    result = onnxprune.prune(proto, x, targets="macs=0.7", round_to=1)
    assert result.after.macs <= 0.7 * result.before.macs
