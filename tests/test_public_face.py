"""What a user of the Python package sees first: names, short representations, functions that take paths and arrays."""

from importlib.resources import files

import numpy as np
import pytest

import onnxprune
from onnxprune.ops.examples import example

ROWS = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def proto():
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    return example(text, {"w1": (6, 8), "b1": (8,), "w2": (8, 3)})


@pytest.fixture(scope="module")
def result(proto):
    return onnxprune.prune(proto, ROWS, targets="macs=0.5", threads=1)


def test_dir_shows_the_public_names_and_no_others():
    assert dir(onnxprune) == sorted(onnxprune.__all__)
    for name in onnxprune.__all__:
        assert name == "__version__" or getattr(onnxprune, name).__doc__


def test_types_are_shipped():
    assert files("onnxprune").joinpath("py.typed").is_file()


def test_representations_are_short(proto, result):
    """A tiny network's result printed 17,000 characters."""
    points = onnxprune.SweepConfig(points=1, highest=0.5, lowest=0.5, latency=False)
    swept = onnxprune.sweep(proto, ROWS, points=points)
    shown = [result, result.model, result.plan, onnxprune.analyze(proto), swept, swept.points[0]]
    for value in shown:
        assert repr(value).startswith(type(value).__name__)
        assert len(repr(value)) < 150
    assert "macs 50 %" in repr(result)


def test_points_of_a_sweep_can_be_saved(proto, tmp_path):
    points = onnxprune.SweepConfig(points=1, highest=0.5, lowest=0.5, latency=False)
    onnxprune.sweep(proto, ROWS, points=points).points[0].result.save(tmp_path / "half.onnx")
    assert onnxprune.analyze(tmp_path / "half.onnx").costs().macs == onnxprune.analyze(proto).costs().macs // 2


def test_models_are_compared_on_arrays(proto, result):
    found = onnxprune.validate(proto, result.proto, ROWS)
    assert (found.before, found.after, found.rows) == (result.before, result.after, len(ROWS))
    assert 0 < found.metrics["relative_error"].after < 1
    assert onnxprune.validate(proto, proto, ROWS).metrics["relative_error"].after == 0
    assert onnxprune.validate(proto, result, ROWS).metrics == found.metrics
    assert "relative output error" in found.summary()
    assert len(repr(found)) < 150
    assert "<table" in found._repr_html_()
    assert {type(change.after) for change in found.metrics.values()} == {float}


def test_what_is_no_model_is_an_error_of_the_input(proto):
    with pytest.raises(onnxprune.InputError, match="not list"):
        onnxprune.analyze([proto])


def test_models_are_timed_side_by_side(proto, result):
    first, second = onnxprune.bench([proto, result.model], ROWS, batch=4, seconds=0, rounds=2, memory=False)
    assert (first.ratio, first.batch, second.batch) == (1.0, 4, 4)


@pytest.mark.parametrize(("batch", "sizes"), [("N", [30, 30, 4]), (10, [10] * 7)])
def test_feeds_are_rows_as_the_model_takes_them(batch, sizes):
    """What quantisers and sessions are fed with; a recipe had to import what is not public for it."""
    fixed = example(f"g (float[{batch},6] x) => (float[{batch},3] y) {{ y = Gemm (x, w) }}", {"w": (6, 3)})
    fed = list(onnxprune.feeds(fixed, (ROWS, np.zeros(64, np.int64)), batch=30))
    assert [feed["x"].shape for feed in fed] == [(size, 6) for size in sizes]
    assert np.array_equal(np.concatenate([feed["x"] for feed in fed])[:64], ROWS)
    assert len(list(onnxprune.feeds(fixed, ROWS, images=5, batch=1))) == (5 if batch == "N" else 1)
    with pytest.raises(onnxprune.InputError, match="does not exist"):
        onnxprune.feeds(fixed, "nosuch.npz")


def test_a_pruned_model_is_trained_towards_the_original(proto, result, tmp_path):
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    config = onnxprune.FinetuneConfig(epochs=2, batch=16, threads=1)
    trained = onnxprune.finetune(result.model, ROWS, teacher=proto, config=config)
    assert len(trained.history) == 3
    trained.save(tmp_path / "trained.onnx")
    assert len(repr(trained)) < 150
