"""A model together with the times of its kernels, and the time of whole models beside the original."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxprune.allocation.widths import Widths
from onnxprune.config import LatencyConfig
from onnxprune.core.clock import Progress
from onnxprune.core.engine import Engine, Provider
from onnxprune.core.results import NOISY, LatencyReport, TimeReport
from onnxprune.graph.model import Model
from onnxprune.graph.operators import OpenShapes
from onnxprune.graph.sizes import rows_a_run
from onnxprune.latency.cache import TimeCache
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.times import FusedKernelTimes
from onnxprune.latency.widths import fast_widths, meeting
from onnxprune.runtime.facts import gather_facts
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.timing import PAIR_S, time_models, time_pair
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.kernels import kernel_steps

_PAIRS = 10  # of a model that is timed beside the original
_SWEEP_S = 2.0  # for each of the models that run in turn


@dataclass(frozen=True, slots=True)
class Timed:
    """A model together with the times of its kernels.

    Attributes:
        analysis: the original's.
        times: its kernels.
        settings: batch size and cache.
        engine: threads and execution provider.
    """

    analysis: Analysis
    times: FusedKernelTimes
    settings: LatencyConfig
    engine: Engine

    @property
    def full(self) -> tuple[int, ...]:
        """Number of units of each group."""
        return tuple(len(group) for group in self.analysis.groups)

    def fast_widths(self, step: int = 1) -> Widths:
        """The widths of each group that are fast on this machine, multiples of `step`; see `latency.widths`."""
        chosen = fast_widths(self.times, self.full, step)
        return Widths(self.full, (1,) * len(self.full), (0,) * len(self.full), "measured", chosen)

    def liked_together(self, widths: Widths, rule: str) -> Widths:
        """Of such widths, for groups that meet in a kernel, those that are multiples of a rule's steps too.

        What one group is timed at, with all others whole, says little of sums that several groups make together.

        Args:
            widths: those that are fast.
            rule: a key of `structure.kernels.STEPS`.
        """
        liked, full, chosen = kernel_steps(self.analysis, rule), self.full, dict(widths.chosen)
        for g in meeting(self.times):
            chosen[g] = chosen[g][(chosen[g] % liked.steps[g] == 0) | (chosen[g] == full[g])]
        return replace(widths, chosen=chosen, bound=liked.bound)

    def beside(self, other: Model) -> tuple[float, float]:
        """The original's time in milliseconds, and another model's relative to it, measured side by side."""
        known = _shapes(self.analysis)
        return beside(self.analysis.model, other, self.settings.batch, self.engine, known)


def beside(
    original: Model, other: Model, batch: int, engine: Engine, known: OpenShapes | None = None
) -> tuple[float, float]:
    """Time two models in turn.

    Args:
        original: the first model.
        other: the second model.
        batch: rows a run.
        engine: threads and execution provider.
        known: sizes of the inputs, as far as they are known.

    Returns:
        The original's time in milliseconds, and the other's relative to it, by the quick runs of both.
    """
    time = time_pair(original, other, batch=batch, engine=engine, seconds=PAIR_S, pairs=_PAIRS, known=known)
    return time.before_ms, time.ratio


def milliseconds(
    models: Sequence[Model], batch: int, engine: Engine, known: OpenShapes | None = None
) -> tuple[tuple[float, ...], bool]:
    """Time models in turn.

    Returns:
        Milliseconds of the first model, and of the others by their ratio to it; and whether runs of one of them differ
        so much that these say little.
    """
    found = time_models(models, batch=batch, engine=engine, seconds=_SWEEP_S * len(models), memory=False, known=known)
    noisy = any(latency.high > NOISY * latency.low for latency in found)
    return tuple(latency.ratio * found[0].p10_ms for latency in found), noisy


def confirmed(
    report: LatencyReport, original: Model, result: Model, known: OpenShapes | None, time: TimeReport | None
) -> LatencyReport:
    """The report with measured times of the final model: those given, else measured here."""
    if time is None:
        engine = Engine(report.threads, Provider.parse(report.provider))
        before, ratio = beside(original, result, report.batch, engine, known)
    else:
        before, ratio = time.before_ms, time.ratio
    return replace(report, before=before, predicted=report.predicted * before / report.before, measured=ratio * before)


def _shapes(analysis: Analysis) -> OpenShapes:
    """The input sizes of an analysis."""
    return {name: analysis.facts.shapes[name] for name in analysis.graph.inputs if name in analysis.facts.shapes}


def timed(analysis: Analysis, settings: LatencyConfig, engine: Engine, progress: Progress) -> Timed:
    """Cut a model into kernels, and open the cache of kernel times.

    Args:
        analysis: of the model.
        settings: batch size and cache.
        engine: threads and execution provider.
        progress: told of kernels timed.

    Raises:
        ModelError: the model cannot be run.
    """
    shapes = _shapes(analysis)
    settings = replace(settings, batch=rows_a_run(analysis.model, shapes, settings.batch))
    feed = random_feed(analysis.model, settings.batch, known=shapes)
    facts = gather_facts(analysis.model, analysis.graph, {name: array.shape for name, array in feed.items()})
    cache = TimeCache.open(settings.cache, engine)
    times = FusedKernelTimes(fused_kernels(analysis.with_facts(facts)), cache, engine, progress)
    return Timed(analysis, times, settings, engine)
