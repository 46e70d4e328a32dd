"""Latency budgets, with computed kernel times and clocks."""

from collections.abc import Callable

import numpy as np
import pytest

import onnxprune
from onnxprune.config import LatencyConfig, PruneConfig
from onnxprune.core.engine import Engine
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.results import TimeReport
from onnxprune.core.targets import Target
from onnxprune.graph.model import Model

Kernels = list[int]
Time = Callable[[Model], float]
Clock = Callable[[Time], None]
CONFIG = PruneConfig(importance="magnitude", latency=LatencyConfig(cache="off"))


def test_the_budget_is_met_though_the_table_is_wrong(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    """Half of the end-to-end time is overhead that no kernel shows; the fastest model, timed first, tells."""
    overhead = macs_clock(network)
    pretend_clock(lambda model: overhead + macs_clock(model))
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.9")
    assert result.latency is not None
    assert result.latency.measured <= 0.91 * result.latency.before
    assert result.latency.predicted == pytest.approx(result.latency.measured, rel=0.15)
    assert not [note for note in result.notes if not note.startswith("without data")]


def test_widths_are_those_that_kernels_like(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    pretend_clock(macs_clock)
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.7")
    assert {group.kept for group in result.groups} <= {8, 16}


def test_round_to_auto_keeps_to_fast_widths_under_other_budgets(network: Model, pretended: Kernels) -> None:
    result = onnxprune.prune(network, config=CONFIG, targets="macs=0.5", round_to="auto")
    assert {group.kept for group in result.groups} == {8, 16}
    assert result.after.macs <= 0.5 * result.before.macs
    by_threshold = onnxprune.prune(network, config=CONFIG, threshold="mean", round_to="auto")
    assert {group.kept for group in by_threshold.groups} <= {8, 16}


def test_other_budgets_hold_beside_it(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    pretend_clock(macs_clock)
    result = onnxprune.prune(network, config=CONFIG, targets=("latency=0.95", "params=0.4"))
    assert result.after.params <= 0.4 * result.before.params


def test_an_absolute_budget_counts_in_time(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    pretend_clock(macs_clock)
    goal_us = 0.75 * macs_clock(network) * 1000
    result = onnxprune.prune(network, config=CONFIG, targets=f"latency={goal_us:.0f}us")
    assert result.latency is not None
    assert result.latency.measured <= 1.01 * goal_us / 1000


def test_a_budget_out_of_reach_says_the_least_time(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    pretend_clock(macs_clock)
    with pytest.raises(BudgetError, match=r"the fastest model takes .* measured"):
        onnxprune.prune(network, config=CONFIG, targets="latency=0.01")


def test_a_budget_that_measurements_never_meet_is_told(
    network: Model, pretended: Kernels, pretend_clock: Clock
) -> None:
    pretend_clock(lambda model: 10.0)
    with pytest.raises(BudgetError):
        onnxprune.prune(network, config=CONFIG, targets="latency=0.5")


def test_layers_cannot_have_a_latency_budget(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    pretend_clock(macs_clock)
    with pytest.raises(InputError, match="whole model"):
        onnxprune.prune(network, config=CONFIG, targets="latency:a1=0.5")


@pytest.mark.parametrize(
    ("text", "value", "again"),
    [("latency=0.6", 0.6, "latency=0.6"), ("latency=1.5ms", 1500.0, "latency=1500us"), ("latency=1", 1.0, "latency=1")],
)
def test_latency_targets_are_shares_or_times(text: str, value: float, again: str) -> None:
    target = Target.parse(text)
    assert target.value == value
    assert str(target) == again
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["latency=5", "latency=0.5us", "latency=3MB", "macs=1ms"])
def test_numbers_that_are_neither_share_nor_time_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        Target.parse(text)


def test_a_real_measurement_is_reported(tmp_path) -> None:
    result = onnxprune.prune(
        "models/lenet5_mnist.onnx",
        config=PruneConfig(importance="magnitude", latency=LatencyConfig(cache=str(tmp_path))),
        targets="latency=1",
    )
    assert result.latency is not None
    assert np.isfinite([result.latency.before, result.latency.predicted, result.latency.measured]).all()
    assert result.latency.before > 0
    assert list(tmp_path.iterdir())


def test_nothing_is_refused_on_a_prediction_alone(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    """The kernels say that half of the time is out of reach; end to end a model takes a third of it."""
    full = macs_clock(network)
    pretend_clock(lambda model: full if macs_clock(model) == full else 0.33 * macs_clock(model))
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.3")
    assert result.latency is not None
    assert result.latency.ratio <= 0.3 * 1.01


def test_what_cannot_be_met_says_what_was_measured(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    full = macs_clock(network)
    pretend_clock(lambda model: 1.0 if macs_clock(model) == full else 0.7)
    with pytest.raises(BudgetError, match=r"takes 70\.0 % of the original's 1 ms, measured .* at most 60\.0 %"):
        onnxprune.prune(network, config=CONFIG, targets="latency=0.6")


def test_another_budget_that_cannot_be_met_is_named(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    pretend_clock(macs_clock)
    with pytest.raises(BudgetError, match="params cannot go below"):
        onnxprune.prune(network, config=CONFIG, targets=("latency=0.9", "params=0.01"))


def test_time_that_no_kernel_shows_is_found(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    """A group of which one unit goes folds half of the time away; the budget was met by destroying all the others."""
    full = macs_clock(network)

    def clock(model: Model) -> float:
        return macs_clock(model) + (full if model.constants["a1.w"].shape[0] == 16 else 0.0)

    pretend_clock(clock)
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.55")
    assert result.latency is not None
    assert result.latency.ratio <= 0.55 * 1.01
    assert {group.name: group.kept for group in result.groups}["a1"] < 16
    assert result.after.macs > 0.75 * result.before.macs


def test_a_run_tells_one_time(network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time) -> None:
    """The table said 58.8 % and the line on the budget 62.1 %."""
    pretend_clock(macs_clock)
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.8")
    assert result.latency is not None
    assert result.time is not None
    assert (result.latency.before, result.latency.ratio) == pytest.approx((result.time.before_ms, result.time.ratio))
    assert not [told for told in result.warnings if "of the original's time" in told]


def test_a_result_above_its_budget_is_said_to_be(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_clock(macs_clock)
    late = TimeReport(0.85, 0.84, 0.86, 1.0, 0.85, 20, 1, 1)
    monkeypatch.setattr("onnxprune.runtime.timing.time_pair", lambda *models, **how: late)
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.8")
    assert result.warnings[0].startswith("the result takes 85.0 % of the original's time, more than the 80.0 % asked")


def test_a_budget_of_time_that_is_hardly_used_is_said_to_be(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time
) -> None:
    """A quarter of the time was taken where half of it was allowed, and nothing in the output said so."""
    full = macs_clock(network)
    pretend_clock(lambda model: full if macs_clock(model) == full else 0.2 * macs_clock(model))
    result = onnxprune.prune(network, config=CONFIG, targets="latency=0.9")
    assert any("of the budget of time is used" in note for note in result.notes)


def test_what_looked_fast_once_is_not_taken_for_it(
    network: Model, pretended: Kernels, pretend_clock: Clock, macs_clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measurements differ by a few per cent: of several models the luckiest was said to meet the budget."""
    pretend_clock(macs_clock)
    looks: dict[float, int] = {}

    def beside(original: Model, other: Model, batch: int, engine: Engine, known: object = None) -> tuple[float, float]:
        share = macs_clock(other) / macs_clock(original)
        looks[share] = looks.get(share, 0) + 1
        return macs_clock(original), share * (0.9 if looks[share] == 1 else 1.1)

    truth = macs_clock(onnxprune.prune(network, config=CONFIG, targets="latency=0.8").model) / macs_clock(network)
    monkeypatch.setattr("onnxprune.latency.target.beside", beside)
    goal = 0.93 * truth
    result = onnxprune.prune(network, config=CONFIG, targets=f"latency={goal}")
    assert macs_clock(result.model) / macs_clock(network) <= 1.01 * goal
