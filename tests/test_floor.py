"""The accuracy floor, as a check on any result and as a search."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.allocation.decide import Decision
from onnxprune.config import OutputConfig, PreprocessConfig, PruneConfig
from onnxprune.core.clock import Clock, no_progress
from onnxprune.core.errors import AccuracyError, InputError
from onnxprune.core.results import ProgramReport
from onnxprune.core.scores import Scores
from onnxprune.ops.examples import example
from onnxprune.pipeline import floor

MODELS = Path(__file__).parents[1] / "models"
SCALED = PreprocessConfig(mean=(0.1307,), std=(0.3081,))


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    calibration = np.load(MODELS / "mnist_calibration.npz")
    # The second half of the calibration rows plays the evaluation rows: choosing a size is a choice.
    return calibration["x"][:300], (calibration["x"][500:], calibration["y"][500:])


def test_search_finds_the_smallest_model_within_the_floor(rows) -> None:
    data, evaluation = rows
    fixed = {"evaluation": evaluation, "preprocess": SCALED, "importance": "activation", "repair": False}
    found = onnxprune.prune(MODELS / "fc3_mnist.onnx", data, max_drop=1.0, **fixed)
    lost = found.metrics["top1"].before - found.metrics["top1"].after
    assert lost <= 0.01 + 1e-9
    assert any("confirm them on other rows" in note for note in found.notes)
    share = found.after.macs / found.before.macs
    assert share < 0.8
    further = onnxprune.prune(MODELS / "fc3_mnist.onnx", data, targets=f"macs={share - 0.02}", **fixed)
    assert further.metrics["top1"].before - further.metrics["top1"].after > 0.01
    assert not any("confirm them" in note for note in further.notes)


def test_a_target_that_loses_too_much_fails(rows) -> None:
    data, evaluation = rows
    with pytest.raises(AccuracyError, match="top-1 accuracy falls by"):
        onnxprune.prune(
            MODELS / "fc3_mnist.onnx",
            data,
            evaluation=evaluation,
            preprocess=SCALED,
            importance="random",
            targets="macs=0.1",
            repair=False,
            max_drop=1.0,
        )


def test_other_rows_confirm_what_was_chosen_or_do_not(rows, tmp_path: Path) -> None:
    data, (images, labels) = rows
    fixed = {"preprocess": SCALED, "importance": "activation", "repair": False, "time": False}
    half = len(images) // 2
    judges, others = (images[:half], labels[:half]), (images[half:], labels[half:])
    model = MODELS / "fc3_mnist.onnx"
    plain = onnxprune.prune(model, data, evaluation=judges, max_drop=1.0, targets="macs=0.9", **fixed)
    assert not plain.confirmed
    result = onnxprune.prune(model, data, evaluation=judges, confirm=others, max_drop=1.0, targets="macs=0.9", **fixed)
    measured = onnxprune.validate(model, result.proto, others, preprocess=SCALED, time=False)
    assert result.metrics == plain.metrics
    assert result.confirmed["top1"] == measured.metrics["top1"]
    assert not any("not confirmed" in warning for warning in result.warnings)
    result.report(tmp_path / "made.json")
    assert (
        json.loads((tmp_path / "made.json").read_text())["confirmed"]["top1"]["after"] == measured.metrics["top1"].after
    )
    assert "top-1 accuracy, confirmed" in result.summary()

    found = onnxprune.prune(
        model, data, evaluation=judges, max_drop=100.0, targets="macs=0.05", confirm=others, **fixed
    )
    assert not any("not confirmed" in warning for warning in found.warnings)
    # These rows lose more: only those are among them that the smaller model gets wrong.
    model_runs = ort.InferenceSession(found.proto.SerializeToString())
    scaled = (others[0] / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    feed = {
        model_runs.get_inputs()[0].name: scaled.astype(np.float32).reshape(-1, *model_runs.get_inputs()[0].shape[1:])
    }
    wrong = model_runs.run(None, feed)[0].argmax(axis=1) != others[1]
    lost = (others[0][wrong], others[1][wrong])
    allowed = 100 * (found.metrics["top1"].before - found.metrics["top1"].after) + 0.5
    worse = onnxprune.prune(
        model, data, evaluation=judges, max_drop=allowed, targets="macs=0.05", confirm=lost, **fixed
    )
    assert any("not confirmed: on the rows of confirm top-1 accuracy falls by" in warning for warning in worse.warnings)


def test_rows_that_confirm_nothing_are_refused(rows) -> None:
    data, (images, labels) = rows
    model, fixed = MODELS / "fc3_mnist.onnx", {"preprocess": SCALED, "importance": "activation", "repair": False}
    with pytest.raises(InputError, match="3 of 100 rows of evaluation are also in confirm"):
        onnxprune.prune(
            model,
            data,
            evaluation=(images[:100], labels[:100]),
            confirm=(images[97:200], labels[97:200]),
            max_drop=1.0,
            targets="macs=0.9",
            **fixed,
        )
    with pytest.raises(InputError, match="evaluation has labels and confirm has none"):
        onnxprune.prune(
            model, data, evaluation=(images, labels), confirm=data[:50], max_drop=1.0, targets="macs=0.9", **fixed
        )
    with pytest.raises(InputError, match="give max_drop"):
        onnxprune.prune(model, data, confirm=(images, labels), targets="macs=0.9", **fixed)


def test_floor_without_rows_of_its_own_is_refused(rows) -> None:
    data, _ = rows
    with pytest.raises(InputError, match="give evaluation"):
        onnxprune.prune(MODELS / "fc3_mnist.onnx", data, preprocess=SCALED, importance="activation", max_drop=1.0)


def test_floor_measured_on_calibration_rows_is_refused(rows) -> None:
    data, (images, labels) = rows
    mixed = np.concatenate([images[:100], data[:7]]), np.concatenate([labels[:100], np.zeros(7, labels.dtype)])
    with pytest.raises(InputError, match="7 of 300 calibration rows"):
        onnxprune.prune(MODELS / "fc3_mnist.onnx", data, evaluation=mixed, preprocess=SCALED, max_drop=1.0)


OPTIONS = {"preprocess": SCALED, "importance": "activation", "repair": False}


def test_a_search_in_which_nothing_may_go_is_refused(rows) -> None:
    """It ended in the advice to allow a larger drop, after a full search."""
    data, evaluation = rows
    told = "keep protects every group, so that there is no smaller model to search for"
    with pytest.raises(InputError, match=told):
        onnxprune.prune(MODELS / "fc3_mnist.onnx", data, evaluation=evaluation, max_drop=100.0, keep=("*",), **OPTIONS)


@pytest.mark.parametrize(
    ("of_original", "told", "most"),
    [
        (np.nan, "metric is nan for the original", 2),
        (np.inf, "metric is inf for the original", 2),
        (0.5, "for any", 99),
    ],
)
def test_a_metric_that_gives_no_numbers_is_named(rows, of_original: float, told: str, most: int) -> None:
    """The advice was to allow a larger drop."""
    data, evaluation = rows
    calls = []

    def metric(ours, others, labels) -> float:
        calls.append(1)
        return of_original if ours is others else np.nan

    with pytest.raises(InputError, match=told):
        onnxprune.prune(
            MODELS / "fc3_mnist.onnx",
            data,
            evaluation=evaluation,
            max_drop=1.0,
            outputs=OutputConfig(metric=metric),
            **OPTIONS,
        )
    assert 0 < len(calls) <= most


def test_a_result_whose_metric_is_no_number_fails(rows) -> None:
    data, evaluation = rows
    outputs = OutputConfig(metric=lambda ours, others, labels: 0.5 if ours is others else np.nan)
    with pytest.raises(AccuracyError, match="metric is no number; raise the target"):
        onnxprune.prune(
            MODELS / "fc3_mnist.onnx",
            data,
            evaluation=evaluation,
            max_drop=1.0,
            outputs=outputs,
            targets="macs=0.9",
            **OPTIONS,
        )


def test_steps_far_from_the_floor_need_no_trials_and_the_last_word_has_them() -> None:
    """Every step of a search tried several allocations, also where the first one told enough."""
    rng = np.random.default_rng(0)
    text = """g (float[N,6] x) => (float[N,4] y) {
        a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) s = Relu (b) y = MatMul (s, w3) }"""
    model = example(text, {"w1": (6, 48), "w2": (48, 24), "w3": (24, 4)})
    data, evaluation = (rng.standard_normal((count, 6)).astype(np.float32) for count in (256, 512))
    steps: list[list[int]] = []

    def follow(stage: str, done: int, total: int) -> None:
        if stage == "search" and done < total:
            steps.append([])
        elif stage == "trials" and total:
            steps[-1].append(done)

    found = onnxprune.prune(model, data, evaluation=evaluation, max_drop=1.0, time=False, threads=1, progress=follow)
    assert len(steps) == 7
    assert steps[0] == []
    assert any(steps[3:])
    assert found.metrics["agreement"].after >= 0.99
    assert found.after.macs < found.before.macs


def test_a_model_that_an_earlier_budget_chose_is_held_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last model within the floor is the smallest, also where the search had been there before."""
    masks = [np.array([True, False]), np.array([False, True])]
    program = ProgramReport("none", 0.0, 0.0, 0.0, 0.0)
    chosen = iter([Decision(masks[number], program, {}, 0.0) for number in (0, 1, 0)])
    monkeypatch.setattr(floor, "decide", lambda *_: next(chosen))
    monkeypatch.setattr(floor, "shrink", lambda prepared, removed, *_: removed.tolist())
    monkeypatch.setattr(floor, "compare", lambda *_, **__: {})
    monkeypatch.setattr(floor, "main_loss", lambda *_: ("top1", 0.5))
    prepared: Any = SimpleNamespace(model=SimpleNamespace(name="m"), analysis=None)
    rows: Any = None
    search = floor._Search(prepared, rows, PruneConfig(max_drop=1.0), Clock(), no_progress, None)
    held = []
    for share in (0.5, 0.4, 0.3):
        assert search.lost(share, Scores(())) == 0.5
        assert search.best is not None
        held.append(search.best[1])
    assert held == [[True, False], [False, True], [True, False]]
