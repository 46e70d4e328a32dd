"""What came of a run, in one sentence: how much faster, how much worse, how much smaller."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from onnxprune.calibration.inputs import is_made_up
from onnxprune.core.costs import Costs
from onnxprune.core.results import MetricChange, RowUse, TimeReport
from onnxprune.core.text import main_metric, metric_name, percent, points_lost, several
from onnxprune.evaluation.warnings import NOT_FASTER
from onnxprune.report.text import is_share, metric_value

if TYPE_CHECKING:
    from onnxprune.evaluation.comparison import Comparison
    from onnxprune.pipeline.outcome import PruneOutcome
    from onnxprune.pipeline.sweep import SweepPoint, SweepResult

_TIMES = 1.5  # from this factor on "times faster" reads better than per cent
_POINT = 0.01
_TOO_NOISY = "(too noisy here to time)"
_PLURAL = {"found_again", "same_sequences", "keypoints_kept", "labels_kept", "same_labels"}
_SAME = {
    "agreement": "the same answers as the original",
    "same_labels": "the same labels as the original",
    "labels_kept": "the same labels as the original",
    "found_again": "the same detections as the original",
    "keypoints_kept": "the same keypoints as the original",
    "same_highest": "the same most probable entries",
    "same_nearest": "the same nearest neighbours",
}
_FEW, _HARDLY = 200, 20
"""Rows below which a verdict says how many there are, and below which it says that they hardly measure anything."""


def verdict_of(result: "PruneOutcome") -> str:
    """The verdict on a run of `prune`."""
    exact = bool(result.settings.get("lossless"))
    return verdict(result.before, result.after, result.metrics, result.time, Judged.by(result.rows, exact=exact))


def comparison_verdict(found: "Comparison") -> str:
    """The verdict on a comparison of two models."""
    judged = Judged(found.rows, made_up=is_made_up(found.source))
    return verdict(found.before, found.after, found.metrics, found.time, judged)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model was judged by: few rows say little, made-up ones nothing of what it is for.

    Attributes:
        rows: how many; None where that is not known.
        made_up: whether they are no data.
        exact: whether nothing was to be lost, so that nothing needs to be measured.
    """

    rows: int | None = None
    made_up: bool = False
    exact: bool = False

    @classmethod
    def by(cls, use: RowUse | None, *, exact: bool = False) -> "Judged":
        """By the rows that a run took its figures of."""
        return cls(exact=exact) if use is None else cls(use.report, use.made_up, exact)

    @property
    def is_hardly(self) -> bool:
        """Whether figures of the rows say next to nothing."""
        return self.made_up or (self.rows is not None and self.rows < _HARDLY)

    def told(self, quality: str) -> str:
        """What was lost, with what it was measured on where that is little."""
        if not quality:
            return "" if self.exact else "accuracy not measured"
        if self.rows is None or (self.rows >= _FEW and not self.made_up):
            return quality
        told = f"{quality} on {several(self.rows, 'made-up row' if self.made_up else 'row')}"
        if not self.is_hardly:
            return told
        return f"accuracy {'not' if self.made_up else 'hardly'} measured ({told})"


def verdict(
    before: Costs,
    after: Costs,
    metrics: Mapping[str, MetricChange],
    time: TimeReport | None,
    judged: Judged | None = None,
) -> str:
    """One sentence, without full stop: "2.1 times faster, 0.4 points less top-1 accuracy, 61 % smaller".

    Args:
        before: costs of the original.
        after: costs of the result.
        metrics: of both, by name; the one that an accuracy floor would be about counts.
        time: the result's time beside the original's; without one, multiply-adds stand in its place.
        judged: what the metrics are of.
    """
    if after == before:
        return "Nothing was removed"
    if time is not None and time.is_noisy:
        fast = f"{_work(before, after)} {_TOO_NOISY}"
    else:
        fast = _work(before, after) if time is None else _speed(time.ratio)
    return _sentence(before, after, fast, (judged or Judged()).told(_quality(metrics)))


def sweep_verdict(swept: "SweepResult[PruneOutcome]") -> str:
    """The verdict on a sweep: the fastest, or else cheapest, of the models that are hardly worse than the original."""
    timed = all("latency" in point.cost for point in swept.points) and not swept.is_noisy
    cost = "latency" if timed else swept.points[0].target.kind
    adjective = "fastest" if cost == "latency" else "cheapest"
    if swept.metric is None or swept.quality is None or not is_share(swept.metric):
        best = min(swept.points, key=lambda point: point.cost.get(cost, 1.0))
        return f"The {adjective} of {several(len(swept.points), 'model')} is {best.target}: {_of_point(swept, best)}"
    least = swept.quality - _POINT - 1e-9
    known = [point for point in swept.points if point.quality is not None and isfinite(point.quality)]
    fine = [point for point in known if point.quality is not None and point.quality >= least]
    if fine:
        best = min(fine, key=lambda point: point.cost.get(cost, 1.0))
        if timed and best.cost["latency"] > NOT_FASTER:
            told = _of_point(swept, best)
            return f"No model that loses at most 1 point is faster; {best.target} comes closest: {told}"
        return f"{best.target} is the {adjective} that loses at most 1 point: {_of_point(swept, best)}"
    if not known:
        return "No model could be measured"
    best = max(known, key=lambda point: point.quality or 0.0)
    return f"Every model loses more than 1 point; {best.target} loses least: {_of_point(swept, best)}"


def _of_point(swept: "SweepResult[PruneOutcome]", point: "SweepPoint[PruneOutcome]") -> str:
    before, after = point.result.before, point.result.after
    quality = ""
    if swept.metric is not None and swept.quality is not None and point.quality is not None:
        quality = _change(swept.metric, MetricChange(swept.quality, point.quality))
    if quality or not point.result.metrics:
        quality = Judged.by(point.result.rows).told(quality)
    if swept.is_noisy or "latency" not in point.cost:
        fast = _work(before, after) + f" {_TOO_NOISY}" * swept.is_noisy
    else:
        fast = _speed(point.cost["latency"])
    told = _sentence(before, after, fast, quality)
    return told[:1].lower() + told[1:]


def _sentence(before: Costs, after: Costs, fast: str, quality: str) -> str:
    size = _less(after.bytes, before.bytes, "smaller", "larger") or "as large as before"
    told = ", ".join(part for part in (fast, quality, size) if part)
    return told[:1].upper() + told[1:]


def _speed(ratio: float) -> str:
    """A time as a share of the original's, in words."""
    if NOT_FASTER < ratio <= 2 - NOT_FASTER:
        return "about as fast"
    if ratio <= NOT_FASTER:
        return f"{1 / ratio:.1f} times faster" if 1 / ratio >= _TIMES else f"{percent(1 - ratio, 0)} less time"
    return f"{ratio:.1f} times slower" if ratio >= _TIMES else f"{percent(ratio - 1, 0)} more time"


def _work(before: Costs, after: Costs) -> str:
    return _less(after.macs, before.macs, "fewer multiply-adds", "more multiply-adds") or "as many multiply-adds"


def _less(after: float, before: float, less: str, more: str) -> str:
    if not before or after == before:
        return ""
    share = after / before
    return f"{percent(1 - share, 0)} {less}" if share < 1 else f"{percent(share - 1, 0)} {more}"


def _quality(metrics: Mapping[str, MetricChange]) -> str:
    name = main_metric(metrics)
    if name is None:
        error = metrics.get("relative_error")
        return "" if error is None or not isfinite(error.after) else f"outputs {percent(error.after)} off"
    return "" if metrics[name].is_blind else _change(name, metrics[name])


def _change(name: str, change: MetricChange) -> str:
    """How a metric changed: "0.4 points less top-1 accuracy"."""
    words = metric_name(name).replace(", ", " of ")
    if not isfinite(change.after):
        return f"{words} not known"
    if not is_share(name):
        before, after = metric_value(name, change.before), metric_value(name, change.after)
        return f"the same {words}" if before == after else f"{words} {after} instead of {before}"
    lost = points_lost(change)
    if abs(lost) < 0.005:
        base, _, output = name.partition("[")
        same = _SAME.get(base)
        return f"the same {words}" if same is None else same + f" in {output.rstrip(']')}" * bool(output)
    digits = 1 if round(abs(lost), 2) >= 1 else 2
    shown = f"{abs(lost):.{digits}f}".rstrip("0").rstrip(".")
    less = "fewer" if name.partition("[")[0] in _PLURAL else "less"
    return f"{shown} point{'s' * (shown != '1')} {less if lost > 0 else 'more'} {words}"
