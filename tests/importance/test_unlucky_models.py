"""Models and rows that are unlucky, not wrong: fixed batches with few rows, and weights that are no finite numbers."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.core.errors import OnnxPruneError
from onnxprune.ops.examples import example

DENSE = """g (float[16,8] x) => (float[16,4] y) {
    a = MatMul (x, w0)
    r = Relu (a)
    b = MatMul (r, w1)
    y = MatMul (b, w2) }"""
SPELLED = """g (float[16,8] x) => (float[16,4] y) {
    a = MatMul (x, w0)
    r = Relu (a)
    t = Reshape (r, shape)
    b = MatMul (t, w1)
    y = MatMul (b, w2) }"""
PRODUCT = """g (float[16,8] x) => (float[16,4] y) {
    a = MatMul (x, w0)
    c = MatMul (x, w3)
    m = Mul (a, c)
    l = Relu (m)
    s = Mul (l, l)
    b = MatMul (s, w1)
    y = MatMul (b, w2) }"""
WEIGHTS = {"w0": (8, 16), "w1": (16, 16), "w2": (16, 4)}
MODELS = {
    "any batch": example(DENSE, WEIGHTS),
    "batch in a shape": example(SPELLED, WEIGHTS, {"shape": np.array([16, 16])}),
    "products": example(PRODUCT, {**WEIGHTS, "w3": (8, 16)}),
}


@pytest.mark.parametrize("count", [1, 5, 16, 17, 48, 50])
@pytest.mark.parametrize("model", MODELS)
def test_fixed_batches_with_few_rows(model: str, count: int) -> None:
    """Batch 16 and 48 rows: of the rows set apart there was no whole batch, and none was run."""
    rows = np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
    result = onnxprune.prune(MODELS[model], rows, targets="macs=0.6", threads=1, round_to=1)
    assert result.after.macs <= 0.6 * result.before.macs
    session = ort.InferenceSession(result.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((16, 8), np.float32)})[0].shape == (16, 4)


def odd(change: str) -> onnx.ModelProto:
    """A network with weights that are no finite numbers, or whose products are none."""
    proto = example(DENSE.replace("16,", "N,"), WEIGHTS)
    tensor = next(t for t in proto.graph.initializer if t.name == ("w1" if change == "one infinite unit" else "w0"))
    weight = onnx.numpy_helper.to_array(tensor).copy()
    if change == "all infinite":
        weight[:] = np.inf
    elif change == "one NaN":
        weight[0, 3] = np.nan
    elif change == "one infinite unit":
        weight[:, 3] = np.inf
    else:
        weight = (weight / np.abs(weight).max() * 3e38).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    return proto


@pytest.mark.parametrize("change", ["all infinite", "one NaN", "one infinite unit", "huge"])
@pytest.mark.parametrize("importance", ["magnitude", "magnitude-l1", "activation", "reconstruction", "random"])
@pytest.mark.filterwarnings("error::RuntimeWarning:onnxprune.importance")
def test_weights_that_are_no_finite_numbers(change: str, importance: str) -> None:
    """Scores became NaN, the first units went whatever they were, and the HTML report failed."""
    rows = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    try:
        result = onnxprune.prune(
            odd(change), rows, targets="params=0.9", importance=importance, repair=False, threads=1, round_to=1
        )
    except OnnxPruneError:
        return
    for group in result.groups:
        assert np.isfinite(group.scores).all()
        assert np.isfinite([damage for _, damage in group.damage]).all()
    kept = {group.name for group in result.groups if group.kept == group.units}
    named = [note for note in result.notes if "cannot judge" in note]
    if importance.startswith("magnitude"):
        assert bool(named) == (change != "huge")
    if named:
        assert kept
