"""Models in float16 are pruned as those in float32 are; what onnxruntime cannot run is one clear line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from blobs import detector, images
from onnx import helper

import onnxprune
from onnxprune.ops.examples import example


@pytest.mark.parametrize("floats_outside", [True, False])
def test_a_detector_in_float16_loses_no_more(floats_outside: bool) -> None:
    """As onnxruntime's converter writes it: nodes out of order, weights and casts in between."""
    converter = pytest.importorskip("onnxruntime.transformers.float16", exc_type=ImportError)
    half = converter.convert_float_to_float16(detector(), keep_io_types=floats_outside)
    rows = [images(60, seed=seed)[0] for seed in (3, 4)]
    results = []
    for model, kind in ((detector(), np.float32), (half, np.float32 if floats_outside else np.float16)):
        data, evaluation = (x.astype(kind) for x in rows)
        results.append(onnxprune.prune(model, data, evaluation=evaluation, targets="macs=0.6", time=False))
    single, small = results
    assert {g.name: g.kept for g in single.groups} == {g.name: g.kept for g in small.groups}
    found, again = (result.metrics["found_again"].after for result in results)
    assert again == pytest.approx(found, abs=0.03)
    assert {array.dtype for array in small.model.constants.values() if array.ndim == 4} == {np.dtype(np.float16)}


def test_bfloat16_without_kernels_is_one_clear_line(tmp_path: Path) -> None:
    text = "g (float[N,16] x) => (float[N,5] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }"
    proto, kind = example(text, {"w": (16, 24), "v": (24, 5)}), onnx.TensorProto.BFLOAT16
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).ravel()
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, tensor.dims, values))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = kind
    onnx.save(proto, tmp_path / "brain.onnx")
    command = [sys.executable, "-m", "onnxprune", "prune", "brain.onnx", "-o", "small.onnx", "--target", "macs=0.8"]
    done = subprocess.run(
        [*command, "--importance", "magnitude"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        pytest.skip("this onnxruntime multiplies matrices in bfloat16")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 3
    assert line.startswith("onnxprune: error: brain.onnx: onnxruntime cannot")
    assert line.endswith("it has few kernels for bfloat16: prune the model in float32, and convert the result")
    assert not (tmp_path / "small.onnx").exists()
