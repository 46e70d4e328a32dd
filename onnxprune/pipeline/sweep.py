"""Prunes one model to several budgets with a single scoring pass, and finds the Pareto-optimal results."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from onnxprune.allocation.plan import make_plan
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.scale import check_same_scale
from onnxprune.config import PreprocessConfig, PruneConfig, SweepConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.costs import COUNTED
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.execution import workers_kept
from onnxprune.core.results import InputSize, MetricChange
from onnxprune.core.scores import Scores
from onnxprune.core.targets import Target
from onnxprune.core.text import main_metric, percent
from onnxprune.evaluation.user_metric import check_metric
from onnxprune.graph.sizes import parse_shapes
from onnxprune.pipeline.candidates import Candidates
from onnxprune.pipeline.decide import decide
from onnxprune.pipeline.finish import finish, retimed
from onnxprune.pipeline.measured import Measured, rows_to_measure
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.prepare import DataSource, Prepared, Source, prepare, score
from onnxprune.pipeline.shrink import shrink

Result_co = TypeVar("Result_co", bound=PruneOutcome, covariant=True)


@dataclass(frozen=True, slots=True, repr=False)
class SweepPoint(Generic[Result_co]):
    """The model pruned to one budget.

    Attributes:
        target: the budget.
        result: what `prune` would have returned.
        milliseconds: time a run; None where it was not measured.
        cost: share of the original's cost by kind; `latency` is absent where it was not measured.
        quality: the sweep's metric for the result; None where it could not be measured on this one.

    Example:
        ```python
        swept = onnxprune.sweep("model.onnx", "rows.npz", points=onnxprune.SweepConfig(points=2))
        point = swept[0]
        print(point.target, point.cost["macs"], point.milliseconds, point.quality)
        ```
    """

    target: Target
    result: Result_co
    milliseconds: float | None
    cost: Mapping[str, float]
    quality: float | None

    def __repr__(self) -> str:
        quality = "" if self.quality is None else f", quality {self.quality:.4g}"
        shares = ", ".join(f"{name} {percent(share, 0)}" for name, share in self.cost.items())
        return f"SweepPoint({self.target}: {shares}{quality})"


@dataclass(frozen=True, slots=True, repr=False)
class SweepResult(Generic[Result_co]):
    """The results for all budgets, from the largest to the smallest.

    Attributes:
        source: name of the original.
        metric: what quality is: what an accuracy floor would be about at the point where that fell most; None where no
            point has one.
        quality: its value for the original.
        milliseconds: the original's time a run; None where it was not measured.
        points: the results.
        missed: budgets without a point of their own, and why: they cannot be met, or give the model of a smaller one.
        sizes: the sizes of inputs that the file leaves open, as the run took them.
        seconds: time per stage that the points share.
        is_noisy: whether runs differed so much that the times say little.
    """

    source: str
    metric: str | None
    quality: float | None
    milliseconds: float | None
    points: tuple[SweepPoint[Result_co], ...]
    missed: Mapping[str, str]
    seconds: Mapping[str, float]
    sizes: tuple[InputSize, ...] = ()
    is_noisy: bool = False

    def __repr__(self) -> str:
        return f"SweepResult({self.source!r}: {len(self.points)} points, {len(self.missed)} budgets without one)"

    def front(self, cost: str) -> tuple[int, ...]:
        """Positions of the points on the Pareto front of quality and cost.

        A point is on it if no other one, nor the original, is at least as good in both, and better in one.

        Args:
            cost: one of `COST_KINDS`.

        Returns:
            Ascending positions; none where quality or cost were not measured.
        """
        known = [
            (n, point.cost[cost], point.quality)
            for n, point in enumerate(self.points)
            if cost in point.cost and point.quality is not None
        ]
        rivals = [(share, quality) for _, share, quality in known]
        rivals += [] if self.quality is None else [(1.0, self.quality)]
        return tuple(
            n
            for n, cost_here, quality in known
            if not any(
                other <= cost_here and better >= quality and (other, -better) != (cost_here, -quality)
                for other, better in rivals
            )
        )


def sweep(
    model: Source,
    data: DataSource | None,
    points: SweepConfig,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    *,
    evaluation: DataSource | None = None,
    executor: Executor | None = None,
    progress: Progress = no_progress,
) -> SweepResult[PruneOutcome]:
    """Prune a model to several budgets, scored once. Arguments and errors as in `api.sweep`."""
    targets = budgets_of(points)
    check_metric(config.outputs)
    parse_shapes(config.shapes)
    clock = Clock(progress)
    prepared = prepare(model, data, config, preprocess, clock, reports=evaluation is None)
    config = replace(config, outputs=prepared.outputs)
    given: Dataset | None = None
    if evaluation is not None:
        with clock.stage("load"):
            given = load_data(evaluation, prepared.model, preprocess)
            check_same_scale(prepared.data, given)
    measured = rows_to_measure(prepared, given, replace(config, max_drop=None, lossless=False))
    candidates = Candidates(shared=True)
    results: list[tuple[Target, PruneOutcome]] = []
    missed: dict[str, str] = {}
    with workers_kept():
        with clock.stage("score"):
            scores = score(prepared, replace(config, targets=targets), executor, progress)
        # The smallest budget first: a larger one may then take what was made for it, where that lost less.
        for number, target in enumerate(reversed(targets)):
            progress("points", number, len(targets))
            try:
                result = _at(target, prepared, scores, measured, config, progress, executor, candidates)
            except BudgetError as error:
                missed[str(target)] = str(error)
                continue
            same = next((other for other, found in results if found.plan.removed == result.plan.removed), None)
            if same is None:
                results.insert(0, (target, result))
            else:
                missed[str(target)] = f"the same model as {same}, which stands for both"
    missed = dict(reversed(missed.items()))
    progress("points", len(targets), len(targets))
    if not results:
        raise BudgetError(next(iter(missed.values())))
    times, noisy = tuple[float, ...](), False
    if points.latency:
        from onnxprune.latency.target import milliseconds

        with clock.stage("time"):
            models = [prepared.model, *(result.model for _, result in results)]
            times, noisy = milliseconds(models, config.latency.batch, config.timing_engine, prepared.shapes)
        results = [
            (target, retimed(result, times[0], time)) for (target, result), time in zip(results, times[1:], strict=True)
        ]
    metric = _metric([result for _, result in results])
    return SweepResult(
        source=prepared.model.name,
        metric=metric,
        quality=next((change.before for _, result in results if (change := _of(result, metric)) is not None), None),
        milliseconds=times[0] if times else None,
        points=tuple(_point(*result, times, n, metric) for n, result in enumerate(results)),
        missed=missed,
        seconds=dict(clock.seconds),
        sizes=prepared.sizes,
        is_noisy=noisy,
    )


def budgets_of(points: SweepConfig) -> tuple[Target, ...]:
    """The budgets of a sweep, from the largest to the smallest.

    Raises:
        InputError: the ends are not shares, or the wrong way round.
    """
    if not 0 < points.lowest <= points.highest <= 1:
        raise InputError(
            f"the budgets of a sweep go from {points.highest:g} to {points.lowest:g}: give shares of the original, "
            "--highest at least --lowest"
        )
    shares = np.linspace(points.highest, points.lowest, points.points)
    return tuple(Target(points.target, float(f"{share:.3g}")) for share in shares)


def _at(
    target: Target,
    prepared: Prepared,
    scores: Scores,
    measured: Measured,
    config: PruneConfig,
    progress: Progress,
    executor: Executor | None,
    candidates: Candidates,
) -> PruneOutcome:
    """The result at one budget."""
    clock = Clock()
    config = replace(config, targets=(target,), threshold=None, max_drop=None, lossless=False, time=False)
    decision = decide(prepared, scores, config, clock, progress, executor, candidates)
    plan = make_plan(prepared.analysis, decision.removed, config.importance, scores, decision.rule)
    smaller = shrink(prepared, decision.removed, config, clock, progress)
    return finish(prepared, smaller, decision, plan, scores, measured, config, clock)


def _metric(results: Sequence[PruneOutcome]) -> str | None:
    """The main metric of the result whose main metric fell most; some may have none."""
    mains = {number: main_metric(result.metrics) for number, result in enumerate(results)}
    worst = main_metric({str(n): results[n].metrics[name] for n, name in mains.items() if name is not None})
    return None if worst is None else mains[int(worst)]


def _point(
    target: Target, result: PruneOutcome, times: tuple[float, ...], number: int, metric: str | None
) -> SweepPoint[PruneOutcome]:
    before, after = result.before, result.after
    cost = {name: after[name] / before[name] for name in COUNTED if before[name]}
    milliseconds_here = times[number + 1] if times else None
    if milliseconds_here is not None:
        cost["latency"] = milliseconds_here / times[0]
    change = _of(result, metric)
    return SweepPoint(target, result, milliseconds_here, cost, None if change is None else change.after)


def _of(result: PruneOutcome, metric: str | None) -> MetricChange | None:
    return None if metric is None else result.metrics.get(metric)
