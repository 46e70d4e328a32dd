"""Meets latency budgets: solves the allocation on measured kernel times, measures the result, corrects, and repeats."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocation.decide import Decision, by_budget
from onnxprune.allocation.problem import Budget
from onnxprune.allocation.widths import Widths
from onnxprune.config import LatencyConfig, PruneConfig, Target
from onnxprune.core.clock import Progress
from onnxprune.core.errors import InputError
from onnxprune.core.results import LatencyReport
from onnxprune.core.scores import Scores
from onnxprune.graph.model import Model
from onnxprune.graph.operators import OpenShapes
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.cost import cost_table
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.latency.widths import fast_widths
from onnxprune.runtime.facts import gather_facts
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.timing import time_models
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.removal import remove

_ROUNDS = 5
# A result that misses its budget by less than this is as good as the measurement.
_NOISE = 0.01
# A budget that is met and used up to this is not worth another round.
_UNUSED = 0.03
# Where the table and the summed kernels differ by more, the table is expanded anew around the result.
_EXPANSION_ERROR = 0.02
# How far the slope of the end-to-end time may be from the original's time over its kernels'.
_STEEPEST = 3.0
_MEASURE_S = 2.0
_BUDGET = "latency in ms"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timed:
    """A model together with the times of its kernels.

    Attributes:
        analysis: the original's.
        times: its kernels.
        config: batch size and threads.
    """

    analysis: Analysis
    times: FusedKernelTimes
    config: LatencyConfig

    @property
    def full(self) -> tuple[int, ...]:
        """Number of units of each group."""
        return tuple(len(group) for group in self.analysis.groups)

    def fast_widths(self, config: PruneConfig) -> Widths:
        """The widths of each group that are fast on this machine; see `latency.widths.fast_widths`."""
        step = config.round_to if isinstance(config.round_to, int) else 1
        chosen = fast_widths(self.times, self.full, step)
        return Widths(self.full, (1,) * len(self.full), (0,) * len(self.full), "measured", chosen)

    def milliseconds(self, others: Sequence[Model]) -> tuple[float, ...]:
        """Measured times of the original and of other models, in milliseconds."""
        models = [self.analysis.model, *others]
        return milliseconds(models, self.config.batch, self.config.threads, _shapes(self.analysis))


def milliseconds(
    models: Sequence[Model], batch: int, threads: int, known: OpenShapes | None = None
) -> tuple[float, ...]:
    """Measured times of models in milliseconds (10th percentile), run in turn."""
    seconds = _MEASURE_S * len(models)
    found = time_models(models, batch=batch, threads=threads, seconds=seconds, memory=False, known=known)
    return tuple(each.p10_ms for each in found)


def confirmed(report: LatencyReport, original: Model, result: Model, known: OpenShapes | None = None) -> LatencyReport:
    """The report with measured times of the final model added."""
    before, measured = milliseconds([original, result], report.batch, report.threads, known)
    return replace(report, before=before, predicted=report.predicted * before / report.before, measured=measured)


def _shapes(analysis: Analysis) -> OpenShapes:
    """The input sizes of an analysis."""
    return {name: analysis.facts.shapes[name] for name in analysis.graph.inputs if name in analysis.facts.shapes}


def timed(analysis: Analysis, config: PruneConfig, progress: Progress) -> Timed:
    """Cut a model into kernels, and open the cache of kernel times.

    Raises:
        ModelError: the model cannot be run.
    """
    settings = config.latency
    feed = random_feed(analysis.model, settings.batch, known=_shapes(analysis))
    facts = gather_facts(analysis.model, analysis.graph, {name: array.shape for name, array in feed.items()})
    cache = TimeCache.open(settings.cache, settings.threads)
    times = FusedKernelTimes(fused_kernels(analysis.with_facts(facts)), cache, settings.threads, progress)
    return Timed(analysis, times, settings)


def by_latency(
    whole: Timed, scores: Scores, targets: Sequence[Target], budgets: Sequence[Budget], config: PruneConfig
) -> Decision:
    """Choose widths that meet latency targets together with other budgets.

    Args:
        whole: the original.
        scores: order and damage curve of each group.
        targets: the latency targets; the smallest counts.
        budgets: other budgets.
        config: options of the program.

    Raises:
        InputError: a latency target for some layers only.
        BudgetError: a budget cannot be met.
        SolverError: the solver failed.
    """
    before = whole.milliseconds([])[0]
    goal = min(_share(target, before) for target in targets)
    widths = replace(whole.fast_widths(config), strict=True)  # the table knows no others
    table = cost_table(whole.times, whole.full, widths.chosen)
    # A run takes `offset + slope * kernels` milliseconds.
    kernels = whole.times.total(whole.full)
    slope, offset = before / kernels, 0.0
    tries: list[_Try] = []
    for _ in range(_ROUNDS):
        budget = Budget(_BUDGET, table.affine(slope, offset), goal * before)
        decision = by_budget(whole.analysis, scores, [*budgets, budget], widths, config)
        predicted = decision.predicted[_BUDGET] / before
        kept = whole.analysis.kept(decision.removed)
        known = next((each for each in tries if each.kept == kept), None)
        if known is not None:
            tries.append(replace(known, predicted=predicted))
            break
        before, after = whole.milliseconds([remove(whole.analysis, decision.removed)])
        tries.append(_Try(decision, kept, predicted, before, after))
        ratio = tries[-1].ratio
        _log.debug("latency: predicted %.3f, measured %.3f of %.3f ms", predicted, ratio, before)
        if goal * (1 - _UNUSED) <= ratio <= goal * (1 + _NOISE):
            break
        exact = whole.times.total(kept)
        if abs(table(kept) / exact - 1) > _EXPANSION_ERROR:
            table = cost_table(whole.times, kept, widths.chosen)
        slope, offset = _line((kernels, before), (exact, after))
    return _best(tries, goal, whole.config)


def _line(full: tuple[float, float], last: tuple[float, float]) -> tuple[float, float]:
    """Slope and offset of the line through two points `(kernel time, end-to-end milliseconds)`: original and last try.

    The slope is kept near that of the original's line through 0: where the two are close, it is mostly noise.
    """
    through_zero = full[1] / full[0]
    slope = (full[1] - last[1]) / (full[0] - last[0]) if last[0] < full[0] else through_zero
    slope = float(np.clip(slope, through_zero / _STEEPEST, through_zero * _STEEPEST))
    return slope, last[1] - slope * last[0]


@dataclass(frozen=True, slots=True)
class _Try:
    decision: Decision
    kept: tuple[int, ...]
    predicted: float
    before: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.measured / self.before


def _best(tries: Sequence[_Try], goal: float, config: LatencyConfig) -> Decision:
    """The decision with the least damage that meets the goal; the fastest one where none does."""
    met = [each for each in tries if each.ratio <= goal * (1 + _NOISE)]
    best = min(met, key=lambda each: each.decision.damage) if met else min(tries, key=lambda each: each.ratio)
    missed = f"the latency budget is missed: measured {best.ratio:.3f} of the original's time, {goal:.3f} asked for"
    report = LatencyReport(
        before=best.before,
        predicted=best.predicted * best.before,
        measured=best.measured,
        batch=config.batch,
        threads=config.threads,
        rounds=len(tries),
    )
    return replace(best.decision, latency=report, notes=() if met else (missed,))


def _share(target: Target, before_ms: float) -> float:
    if target.layers is not None:
        raise InputError(f"target {str(target)!r}: a latency budget holds for the whole model; leave out the layers")
    return target.value if target.is_share else target.value / (1e3 * before_ms)
