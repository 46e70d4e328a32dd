"""The accuracy floor (`--max-drop`): checks a result, or searches for the smallest model that stays above the floor."""

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil, isfinite, isnan, log2

import numpy as np

from onnxprune.allocation.decide import Decision
from onnxprune.allocation.keep import kept_groups
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import overlap
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.core.errors import AccuracyError, BudgetError, InputError, SlowerError
from onnxprune.core.results import MetricChange, TimeReport
from onnxprune.core.scores import Scores
from onnxprune.core.targets import Target
from onnxprune.core.text import main_metric, metric_name, percent, points_lost
from onnxprune.evaluation.metrics import compare
from onnxprune.evaluation.warnings import NOT_FASTER
from onnxprune.graph.model import Model
from onnxprune.pipeline.candidates import Candidates, latency_search
from onnxprune.pipeline.decide import decide
from onnxprune.pipeline.prepare import Prepared, score
from onnxprune.pipeline.shrink import shrink
from onnxprune.pipeline.trials import worthwhile

_RESOLUTION = 0.01  # of the original's cost
_FAR = 0.2  # between shares, of the same
_CLEARLY = 3.0  # times the allowed loss, and a point: no trial makes up for that
_TITLES = {"time": "time", "macs": "MACs", "params": "parameters", "bytes": "bytes"}


def main_loss(name: str, metrics: Mapping[str, MetricChange]) -> tuple[str, float]:
    """The metric that the floor applies to, and by how many points it fell.

    Raises:
        InputError: nothing measured is a share, or it is no number for the original.
    """
    metric = main_metric(metrics)
    if metric is None:
        raise InputError(
            f"{name}: --max-drop finds nothing to judge in the outputs of these rows; give other rows, or --metric"
        )
    if not isfinite(metrics[metric].before):
        raise InputError(
            f"{name}: {metric_name(metric)} is {metrics[metric].before} for the original, so that nothing can be "
            "judged by it; give other rows, or another --metric"
        )
    if metrics[metric].blind is not None and metrics[metric].before <= 0:
        raise InputError(
            f"{name}: by the labels {metric_name(metric)} is 0 for the original itself, so that nothing can be lost; "
            "say what outputs hold (--output NAME=probabilities for masks), or give other labels"
        )
    return metric, points_lost(metrics[metric])


def holds(lost: float, max_drop: float) -> bool:
    """Whether a loss of so many points is within the floor; one that is no number is not."""
    return lost <= max_drop


def check_floor_rows(data: Dataset | None, evaluation: Dataset | None, config: PruneConfig) -> None:
    """Refuse to measure accuracy on the rows that the weights were fitted to.

    Args:
        data: calibration rows.
        evaluation: rows of their own for the metric; None where the user gave none.
        config: `allow_overlap`.

    Raises:
        InputError: there are no rows of their own, or calibration rows among them.
    """
    if config.allow_overlap and (evaluation is not None or data is not None):
        return
    if evaluation is None:
        raise InputError("--max-drop needs rows to measure on: give --eval, with labels where accuracy is meant")
    shared = 0 if data is None else overlap(data, evaluation)
    if shared:
        raise InputError(
            f"{shared} of {len(data or ())} calibration rows are also in --eval, which flatters the result; "
            "use other rows, or --allow-overlap"
        )


def check_confirming_rows(confirm: Dataset | None, data: Dataset | None, evaluation: Dataset | None) -> None:
    """Refuse rows that confirm nothing: those that were fitted to or that chose, and those that measure something else.

    Raises:
        InputError: rows of the other sets are among them, or only one of the two that measure has labels.
    """
    if confirm is None:
        return
    if evaluation is not None and (confirm.labels is None) != (evaluation.labels is None):
        one, other = ("--eval", "--confirm") if confirm.labels is None else ("--confirm", "--eval")
        raise InputError(
            f"{one} has labels and {other} has none, so that they measure different things; give both some"
        )
    for rows, where in ((data, "the calibration rows"), (evaluation, "--eval")):
        if rows is not None and (shared := overlap(rows, confirm)):
            raise InputError(f"{shared} of {len(rows)} rows of {where} are also in --confirm; give other rows")


def check_floor(name: str, metrics: Mapping[str, MetricChange], max_drop: float, advice: str = "") -> None:
    """Check that a result's metric fell by no more than the floor allows.

    Args:
        name: of the model.
        metrics: of the original and of the result.
        max_drop: percentage points.
        advice: what the user can do where it fell by more.

    Raises:
        AccuracyError: it fell by more than `max_drop` points.
        InputError: nothing measured is a share.
    """
    metric, lost = main_loss(name, metrics)
    if not holds(lost, max_drop):
        fall = "is no number" if isnan(lost) else f"falls by {lost:.2f} points, more than the {max_drop:g} allowed"
        told = f"{name}: {metric_name(metric)} {fall}"
        raise AccuracyError(f"{told}; {advice}" if advice else told)


def check_time(name: str, time: TimeReport | None) -> None:
    """Check that a result is faster than its original.

    Raises:
        SlowerError: it takes over 97 % of the original's time, or the time could not be measured.
    """
    if time is None:
        raise SlowerError(f"{name}: the time could not be measured; give --data")
    if time.ratio > NOT_FASTER:
        raise SlowerError(
            f"{name}: the result takes {time.ratio:.2f} of the original's time; give a budget that is smaller, or on "
            "time (--target latency=0.8)"
        )


def smallest(
    prepared: Prepared,
    scores: Scores,
    evaluation: Dataset,
    config: PruneConfig,
    clock: Clock,
    progress: Progress,
    executor: Executor | None = None,
) -> tuple[Decision, Model]:
    """Find the model of least cost whose metric stays within the floor.

    Bisects the budget as a share of the original's cost (that of `config.minimise`), down to one per cent. Where that
    is time, the model of fewest multiply-adds is found first: the fastest is no slower. Scores are computed once; each
    step allocates, and removes, repairs and measures what no step before it has chosen. While the shares are far apart,
    what the program says without trials mostly tells enough.

    Args:
        prepared: the model and calibration rows.
        scores: scores of all groups.
        evaluation: rows that the metric is measured on.
        config: `max_drop`, `minimise` and all that shrinking takes.
        clock: times of the stages.
        progress: told of steps.
        executor: where independent tasks run; by default where `config.executor` says.

    Raises:
        AccuracyError: not even the largest budget tried stays within the floor.
        InputError: nothing may go, or the metric gives no numbers.
    """
    assert config.max_drop is not None
    _require_choice(prepared, scores, config)
    search = _Search(prepared, evaluation, config, clock, progress, executor)
    if config.minimise == "time":
        search.begin(_fewest_macs(search, scores))
    high = _halve(search, scores)
    best, lost_by = search.best, search.lost_by
    if best is None and prepared.lossless.found:
        config_at = _at(1.0, config)
        with suppress(BudgetError):
            decision = decide(prepared, scores, config_at, clock, progress, executor, search.candidates)
            best = decision, shrink(prepared, decision.removed, config_at, clock, progress)
    if best is None and lost_by and all(map(isnan, lost_by.values())):
        raise InputError(
            f"{prepared.model.name}: {search.metric} is no number for any of the {len(lost_by)} smaller models tried; "
            "give other rows, or another --metric"
        )
    if best is None:
        raise AccuracyError(
            f"{prepared.model.name}: no smaller model within {config.max_drop:g} points was found "
            f"(down from {percent(high, 0)} of the {_TITLES[config.minimise]}); allow a larger --max-drop, or give "
            "more calibration rows"
        )
    return best


def _fewest_macs(search: "_Search", scores: Scores) -> "_Search":
    """The same search for fewest multiply-adds. Damage that is measured is measured at that one's widths."""
    config = replace(search.config, minimise="macs")
    if scores.powers:
        with search.clock.stage("score"):
            scores = score(search.prepared, config, search.executor, search.progress)
    other = _Search(search.prepared, search.evaluation, config, search.clock, search.progress, search.executor)
    _halve(other, scores)
    return other


def _halve(search: "_Search", scores: Scores) -> float:
    """Halve the budget between too much and too little; the last share that was enough."""
    prepared, config, within = search.prepared, search.config, search.config.max_drop or 0.0
    quick = config.minimise != "time" and bool(scores.powers) and worthwhile(prepared, config)
    low, high = 0.0, search.time
    total = ceil(log2((high - low) / _RESOLUTION))
    for step in range(total):
        share = (low + high) / 2
        search.progress("search", step, total)
        lost = search.lost(share, replace(scores, powers=())) if quick and high - low > _FAR else None
        if lost is None or not (holds(lost, within) or lost > _CLEARLY * within + 1):
            lost = search.lost(share, scores)
        if lost is not None and holds(lost, within):
            high = min(share, search.time)  # much of a budget of time may be left
        else:
            low = share
    if quick and search.untried:
        search.lost(high, scores)
    search.progress("search", total, total)
    return high


@dataclass(slots=True)
class _Search:
    """Models tried for a floor, and the last one that was within it.

    Attributes:
        candidates: what was tried.
        lost_by: points lost, by removal mask.
        metric: what lost them.
        best: the last decision within the floor, and its model.
        untried: whether that decision had no trials.
    """

    prepared: Prepared
    evaluation: Dataset
    config: PruneConfig
    clock: Clock
    progress: Progress
    executor: Executor | None
    candidates: Candidates = field(default_factory=Candidates)
    lost_by: dict[bytes, float] = field(default_factory=dict)
    metric: str = ""
    best: tuple[Decision, Model] | None = None
    untried: bool = False

    @property
    def time(self) -> float:
        """Share of the original's time that the best takes, as measured; 1 where no budget is on time."""
        report = None if self.best is None else self.best[0].latency
        return 1.0 if report is None else report.ratio

    def begin(self, other: "_Search") -> None:
        """Take what a search for fewer multiply-adds has found, with its time: the fastest model is no slower."""
        self.metric = other.metric
        if other.best is None:
            return
        decision, smaller = other.best
        with self.clock.stage("allocate"):
            decision = latency_search(self.prepared, _at(1.0, self.config), self.candidates, self.progress).timed(
                decision
            )
        if decision.latency is not None and decision.latency.ratio < 1:
            self.best = decision, smaller
            chosen = decision.removed.tobytes()
            self.lost_by[chosen] = other.lost_by[chosen]

    def lost(self, share: float, scores: Scores) -> float | None:
        """How many points the model with a share of its cost loses; None where that cannot be reached."""
        prepared, config_at = self.prepared, _at(share, self.config)
        try:
            decision = decide(prepared, scores, config_at, self.clock, self.progress, self.executor, self.candidates)
        except BudgetError:
            return None
        chosen, within = decision.removed.tobytes(), self.config.max_drop or 0.0
        held = self.best is not None and np.array_equal(self.best[0].removed, decision.removed)
        if chosen not in self.lost_by or (holds(self.lost_by[chosen], within) and not held):
            smaller = shrink(prepared, decision.removed, config_at, self.clock, self.progress)
            with self.clock.stage("evaluate"):
                metrics = compare(
                    prepared.model,
                    smaller,
                    self.evaluation,
                    config=self.config.outputs,
                    analysis=prepared.analysis,
                    engine=self.config.engine,
                )
            self.metric, self.lost_by[chosen] = main_loss(prepared.model.name, metrics)
            if holds(self.lost_by[chosen], within):
                self.best, self.untried = (decision, smaller), not scores.powers
        return self.lost_by[chosen]


def _require_choice(prepared: Prepared, scores: Scores, config: PruneConfig) -> None:
    """Refuse a search where every group must keep all of its units."""
    kept = kept_groups(prepared.analysis, config.keep)
    if prepared.lossless.found or not {group.name for group in prepared.analysis.groups} <= kept | {*scores.unjudged}:
        return
    why = "--keep protects" if kept else f"--importance {config.importance} cannot judge"
    raise InputError(f"{prepared.model.name}: {why} every group, so that there is no smaller model to search for")


def _at(share: float, config: PruneConfig) -> PruneConfig:
    """The options with a budget in place of the floor."""
    kind = "latency" if config.minimise == "time" else config.minimise
    return replace(config, targets=(Target(kind, share),))
