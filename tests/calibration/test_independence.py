"""Models whose first axis counts no rows: time steps of one recording, frames of one clip."""

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration.independence import counts_rows, without_batch
from onnxprune.calibration.inputs import load_data
from onnxprune.graph.inputs import input_specs
from onnxprune.graph.load import load
from onnxprune.ops.examples import example

LENGTH, FEATURES = 24, 6


def over_time() -> onnx.ModelProto:
    """Convolutions along the first axis, without padding: five steps less come out than go in."""
    return example(
        """g (float[T,F] x) => (float[S,3] y) {
            a = Transpose <perm = [1, 0]> (x)
            b = Unsqueeze (a, first)
            c = Conv (b, w1, b1)
            d = Relu (c)
            e = Conv (d, w2, b2)
            f = Squeeze (e, first)
            y = Transpose <perm = [1, 0]> (f) }""",
        {"w1": (16, FEATURES, 3), "b1": (16,), "w2": (3, 16, 4), "b2": (3,)},
        {"first": np.array([0])},
        full_check=False,
    )


def same_length() -> onnx.ModelProto:
    """A recurrence over the first axis: as many steps come out as go in, but each depends on those before it."""
    return example(
        """g (float[T,F] x) => (float[T,3] y) {
            a = Unsqueeze (x, second)
            h, h_last, c_last = LSTM <hidden_size = 8> (a, w, r)
            s = Squeeze (h, places)
            y = MatMul (s, v) }""",
        {"w": (1, 32, FEATURES), "r": (1, 32, 8), "v": (8, 3)},
        {"second": np.array([1]), "places": np.array([1, 2])},
    )


def by_row() -> onnx.ModelProto:
    return example(
        "g (float[T,F] x) => (float[T,3] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }",
        {"w": (FEATURES, 16), "v": (16, 3)},
    )


def clips(count: int = 30) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, LENGTH, FEATURES)).astype(np.float32)


@pytest.mark.parametrize(("made", "rows"), [(over_time, False), (same_length, False), (by_row, True)])
def test_the_model_is_asked_whether_its_first_axis_counts_rows(made, rows: bool) -> None:
    model = load(made())
    assert counts_rows(model, {"x": clips(1)}) is rows
    data = load_data(clips(), model)
    assert (data.whole, len(data)) == ((False, 30 * LENGTH) if rows else (True, 30))
    assert input_specs(without_batch(model, data))[0].batched is rows
    assert any("counts no rows" in note for note in data.notes) is not rows


@pytest.mark.parametrize("made", [over_time, same_length])
def test_clips_are_pruned_one_by_one(made, tmp_path: Path) -> None:
    """Clips were strung together, and run in single steps: "shapes contradict each other: ... size -1"."""
    result = onnxprune.prune(made(), clips(), targets="params=0.7", threads=1)
    assert result.after.params <= 0.7 * result.before.params
    assert result.metrics["relative_error"].after < 0.7
    result.save(tmp_path / "small.onnx")
    again = onnxprune.validate(made(), tmp_path / "small.onnx", clips(8), time=False)
    assert 0 < again.metrics["relative_error"].after < 0.7
    measured = onnxprune.bench([made(), tmp_path / "small.onnx"], data=clips(2), seconds=0.05)
    assert len(measured) == 2


def test_steps_without_clips_are_told() -> None:
    with pytest.raises(onnxprune.ModelError, match=r"counts no rows but steps, arrays of one axis more"):
        onnxprune.prune(over_time(), clips().reshape(-1, FEATURES), targets="params=0.7")


def test_features_that_no_size_tells_are_those_of_a_matrix() -> None:
    """Nothing but the first matrix tells how many features a row has: it was refused with 64, 224, 512, ..."""
    assert onnxprune.analyze(by_row()).facts.shapes["x"] == (1, FEATURES)


def test_a_model_keeps_what_was_found_out_in_another_process() -> None:
    model = load(over_time())
    assert pickle.loads(pickle.dumps(without_batch(model, load_data(clips(), model)))).unbatched


def squeezed() -> onnx.ModelProto:
    """All axes of size 1 squeezed away at the end: a single row gives a number, several a vector."""
    return example(
        """g (float[N,6] x) => (float y) {
            h = Gemm (x, w1, b1)  r = Relu (h)  z = Gemm (r, w2, b2)  s = Sigmoid (z)  y = Squeeze (s) }""",
        {"w1": (6, 16), "b1": (16,), "w2": (16, 1), "b2": (1,)},
        full_check=False,
    )


def test_outputs_without_an_axis_of_rows_for_a_single_row(tmp_path: Path) -> None:
    """It ended with "internal error: ... along dimension 1, the array at index 0 has size 4 and ... 5"."""
    rows = {"x": np.random.default_rng(0).standard_normal((45, 6)).astype(np.float32)}
    result = onnxprune.prune(squeezed(), rows, targets="macs=0.6", threads=1, time=False)
    assert result.after.macs <= 0.6 * result.before.macs
    assert result.metrics["relative_error"].after < 0.3
    labelled = {**rows, "y": np.arange(45) % 2}
    result.save(tmp_path / "small.onnx")
    again = onnxprune.validate(squeezed(), tmp_path / "small.onnx", labelled, time=False)
    assert 0 < again.metrics["relative_error"].after < 0.3
