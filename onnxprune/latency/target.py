"""A model together with the times of its kernels, and the time of whole models beside the original."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxprune.allocation.widths import Widths
from onnxprune.config import LatencyConfig, PruneConfig
from onnxprune.core.clock import Progress
from onnxprune.core.results import LatencyReport
from onnxprune.graph.model import Model
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.latency.widths import fast_widths
from onnxprune.runtime.facts import gather_facts
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.timing import time_models
from onnxprune.structure.analysis import Analysis

# Seconds that a pair of models runs for, and pairs at least.
_MEASURE_S = 1.2
_PAIRS = 10
_SWEEP_S = 2.0


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

    def beside(self, other: Model) -> tuple[float, float]:
        """The original's time in milliseconds, and another model's relative to it, measured side by side."""
        return beside(self.analysis.model, other, self.config.batch, self.config.threads)


def beside(original: Model, other: Model, batch: int, threads: int) -> tuple[float, float]:
    """Time two models in turn. On one thread its own time on the processor counts, which no other process prolongs.

    Returns:
        The original's time in milliseconds (10th percentile: other processes only ever make a run slower), and the
        other's relative to it (median over the pairs, so that a slow moment meets both).
    """
    before, after = time_models(
        [original, other],
        batch=batch,
        threads=threads,
        seconds=_MEASURE_S,
        rounds=_PAIRS,
        memory=False,
        clock=time.thread_time if threads == 1 else time.perf_counter,
    )
    return before.p10_ms, after.ratio


def milliseconds(models: Sequence[Model], batch: int, threads: int) -> tuple[float, ...]:
    """Times of models in milliseconds, run in turn: of the first, and of the others by their ratio to it."""
    seconds = _SWEEP_S * len(models)
    found = time_models(models, batch=batch, threads=threads, seconds=seconds, memory=False)
    return tuple(each.ratio * found[0].p10_ms for each in found)


def confirmed(report: LatencyReport, original: Model, result: Model) -> LatencyReport:
    """The report with measured times of the final model added."""
    before, ratio = beside(original, result, report.batch, report.threads)
    return replace(report, before=before, predicted=report.predicted * before / report.before, measured=ratio * before)


def timed(analysis: Analysis, config: PruneConfig, progress: Progress) -> Timed:
    """Cut a model into kernels, and open the cache of kernel times.

    Raises:
        ModelError: the model cannot be run.
    """
    settings = config.latency
    feed = random_feed(analysis.model, settings.batch)
    facts = gather_facts(analysis.model, analysis.graph, {name: array.shape for name, array in feed.items()})
    cache = TimeCache.open(settings.cache, settings.threads)
    times = FusedKernelTimes(fused_kernels(analysis.with_facts(facts)), cache, settings.threads, progress)
    return Timed(analysis, times, settings)
