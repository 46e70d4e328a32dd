"""Sweeps over budgets on a small network."""

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.api.prune import sweep
from onnxprune.config import PruneConfig, SweepConfig
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.results import MetricChange
from onnxprune.pipeline.sweep import SweepPoint, SweepResult, budgets_of
from onnxprune.report.provenance import provenance
from onnxprune.report.sweep_report import sweep_page, sweep_report

LENET = "models/lenet5_mnist.onnx"
CONFIG = PruneConfig(importance="magnitude", repair=False)


@pytest.fixture(scope="module")
def found() -> SweepResult:
    points = SweepConfig(points=3, highest=0.9, lowest=0.3, latency=False)
    return sweep(LENET, "models/mnist_test.npz", points=points, config=replace(CONFIG, images=200))


def test_every_point_meets_its_budget(found: SweepResult) -> None:
    assert [str(point.target) for point in found.points] == ["macs=0.9", "macs=0.6", "macs=0.3"]
    for point in found.points:
        assert point.result.after.macs <= point.target.value * point.result.before.macs
        assert point.cost["macs"] == point.result.after.macs / point.result.before.macs
        assert "latency" not in point.cost


def test_quality_is_accuracy_where_there_are_labels(found: SweepResult) -> None:
    assert found.metric == "top1"
    assert [point.quality for point in found.points] == [p.result.metrics["top1"].after for p in found.points]


def test_the_front_holds_what_no_other_point_beats(found: SweepResult) -> None:
    base = found.points[0]
    values = [(0.9, 0.95), (0.8, 0.95), (0.6, 0.80), (0.5, 0.85), (0.4, 0.70)]
    points = tuple(SweepPoint(base.target, base.result, None, {"macs": cost}, quality) for cost, quality in values)
    made = replace(found, points=points)
    assert made.front("macs") == (1, 3, 4)
    assert made.front("latency") == ()


def test_budgets_out_of_reach_are_told(found: SweepResult) -> None:
    points = SweepConfig(points=2, highest=0.9, lowest=0.0001, latency=False)
    partly = sweep(LENET, points=points, config=CONFIG)
    assert len(partly.points) == 1
    assert "cannot go below" in partly.missed["macs=0.0001"]
    assert partly.metric is None
    with pytest.raises(BudgetError):
        sweep(LENET, points=replace(points, points=1, highest=0.0001), config=CONFIG)


def test_budgets_that_give_the_same_model_are_told() -> None:
    """They disappeared: eight points were asked for, and fewer came without a word."""
    points = SweepConfig(points=5, highest=0.8, lowest=0.79, latency=False)
    swept = sweep(LENET, points=points, config=replace(CONFIG, round_to=4))
    told = {str(target) for target in budgets_of(points)}
    assert {str(point.target) for point in swept.points} | {*swept.missed} == told
    assert 0 < len(swept.points) < 5
    standing = {f"the same model as {point.target}, which stands for both" for point in swept.points}
    assert {*swept.missed.values()} <= standing


def test_a_metric_that_only_some_points_have_is_shown_where_it_is(monkeypatch) -> None:
    """Only the first point was asked for a metric: all points were lost where another one lacked it."""
    kept = iter([{}, {"labels_kept": MetricChange(1.0, 0.8, rules=True)}, {}])
    monkeypatch.setattr(
        "onnxprune.pipeline.finish._compared", lambda _, __, rows, *___: {} if rows is None else next(kept)
    )
    points = SweepConfig(points=3, highest=0.9, lowest=0.3, latency=False)
    partly = sweep(LENET, "models/mnist_test.npz", points=points, config=replace(CONFIG, images=20))
    assert (partly.metric, partly.quality) == ("labels_kept", 1.0)
    assert [point.quality for point in partly.points] == [None, 0.8, None]
    assert partly.front("macs") == (1,)
    assert [entry["quality"] for entry in sweep_report(partly, [None] * 3)["points"]] == [None, 0.8, None]
    assert "macs=0.9: " not in sweep_page(partly, provenance(["sweep"]))


def test_times_are_measured_side_by_side() -> None:
    result = sweep(LENET, points=SweepConfig(points=1, highest=0.5, lowest=0.5), config=CONFIG)
    assert result.milliseconds is not None
    assert np.isfinite(result.points[0].cost["latency"])


def test_a_budget_of_time_is_told_with_the_times_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table said 72 %, and a warning beside it 73.6 %: of another measurement."""
    monkeypatch.setattr("onnxprune.latency.target.milliseconds", lambda *_: ((2.0, 1.9), False))
    points = SweepConfig(points=1, highest=0.8, lowest=0.8, target="latency")
    (point,) = sweep(LENET, points=points, config=CONFIG).points
    assert point.cost["latency"] == pytest.approx(0.95)
    assert point.result.latency is not None
    assert point.result.latency.ratio == pytest.approx(0.95)
    told = [warning for warning in point.result.warnings if "of the original's time" in warning]
    assert len(told) == 1
    assert "95" in told[0]


@pytest.mark.parametrize(("highest", "lowest"), [(0.2, 0.9), (1.5, 0.5), (0.5, 0.0)])
def test_ends_must_be_shares(highest: float, lowest: float) -> None:
    with pytest.raises(InputError):
        budgets_of(SweepConfig(highest=highest, lowest=lowest))
