"""What a run has tried serves all its budgets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.allocation.decide import Decision
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.errors import AccuracyError
from onnxprune.core.results import LatencyReport, ProgramReport
from onnxprune.pipeline.candidates import Candidates, Limits
from onnxprune.pipeline.prepare import Prepared, prepare
from onnxprune.pipeline.trials import Loss, least_lost

MODELS = Path(__file__).parents[1] / "models"
SCALED = PreprocessConfig(mean=(0.1307,), std=(0.3081,))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    rows = np.load(MODELS / "mnist_calibration.npz")["x"][:64]
    return prepare(MODELS / "fc3_mnist.onnx", rows, PruneConfig(), SCALED)


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.floats(0.1, 1.2), st.floats(0, 5)),
        min_size=1,
        max_size=12,
        unique_by=lambda one: one[0],
    )
)
def test_a_larger_budget_never_loses_more(prepared: Prepared, made: list[tuple[int, float, float]]) -> None:
    candidates = Candidates(shared=True)
    for units, ratio, loss in made:
        removed = prepared.analysis.none_removed()
        removed[prepared.analysis.groups[-1].units[:units]] = True
        report = LatencyReport(1.0, ratio, ratio, 1, 1, 1)
        decision = Decision(removed, ProgramReport("optimal"), {}, 0.0, latency=report)
        candidates.add([decision], [Loss(loss, loss)])
    losses = {d.removed.tobytes(): loss.mean for d, loss in candidates.judged.values()}
    last = -1.0
    for goal in (1.2, 1.0, 0.8, 0.6, 0.4, 0.2):
        fitting = candidates.fitting(Limits(prepared, (), goal))
        if not fitting:
            assert all(ratio > goal for _, ratio, _ in made)
            continue
        chosen = least_lost(fitting, 10)
        assert chosen.latency is not None
        assert chosen.latency.ratio <= goal * 1.01
        assert losses[chosen.removed.tobytes()] >= last
        last = losses[chosen.removed.tobytes()]


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    calibration = np.load(MODELS / "mnist_calibration.npz")
    return calibration["x"][:300], (calibration["x"][500:], calibration["y"][500:])


def searched(rows: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], **options: Any) -> onnxprune.PruneResult:
    data, evaluation = rows
    fixed = {"evaluation": evaluation, "preprocess": SCALED, "importance": "activation", "repair": False}
    return onnxprune.prune(MODELS / "lenet5_mnist.onnx", data, max_drop=1.0, time=False, **fixed, **options)


def test_the_search_makes_small_what_it_is_asked_to(rows: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]) -> None:
    by_macs, by_params = searched(rows), searched(rows, minimise="params")
    assert by_params.after.params < by_macs.after.params
    assert by_macs.after.macs < by_params.after.macs
    assert searched(rows, minimise="macs").plan == by_macs.plan


def test_the_search_finds_the_fastest_within_the_floor(
    rows: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are pretended: those of the largest convolution count alone."""

    def microseconds(model: Any) -> float:
        return 1.0 + sum(array.size for array in model.constants.values() if array.ndim == 4)

    monkeypatch.setattr(
        "onnxprune.latency.times.round_times",
        lambda models, engine: np.outer(np.ones(3), [microseconds(model) for model in models]),
    )
    monkeypatch.setattr(
        "onnxprune.latency.target.beside",
        lambda original, other, batch, engine, known=None: (1.0, microseconds(other) / microseconds(original)),
    )
    found = searched(rows, minimise="time", latency=onnxprune.LatencyConfig(cache="off"))
    assert found.latency is not None
    assert found.latency.ratio < 0.95
    assert found.metrics["top1"].before - found.metrics["top1"].after <= 0.01 + 1e-9
    with pytest.raises(AccuracyError, match="top-1 accuracy falls by"):
        searched(rows, targets=f"latency={found.latency.ratio - 0.05}", latency=onnxprune.LatencyConfig(cache="off"))


def test_the_fastest_is_no_slower_than_the_smallest(
    rows: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--minimise time` found took 57 % of the time, and what was found without it 29 %: kernels told nothing."""

    def microseconds(model: Any) -> float:
        return 1.0 + sum(array.size for array in model.constants.values() if array.ndim > 1) ** 1.5

    monkeypatch.setattr("onnxprune.latency.times.round_times", lambda models, engine: np.ones((3, len(models))))
    monkeypatch.setattr(
        "onnxprune.latency.target.beside",
        lambda original, other, batch, engine, known=None: (1.0, microseconds(other) / microseconds(original)),
    )
    by_macs = searched(rows)
    by_time = searched(rows, minimise="time", latency=onnxprune.LatencyConfig(cache="off"))
    assert microseconds(by_time.model) <= microseconds(by_macs.model)
    assert by_time.metrics["top1"].before - by_time.metrics["top1"].after <= 0.01 + 1e-9
