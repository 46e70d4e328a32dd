"""Warnings about metrics that fell heavily."""

from collections.abc import Mapping

from onnxprune.core.results import MetricChange, TimeReport
from onnxprune.core.text import SHARE_METRICS, metric_name, percent

_HEAVY = 0.1  # of a share that has a value of its own before, such as an accuracy
# What may be left of shares that are 1 for the original.
_LEFT = {
    "agreement": 0.8,
    "worst_class": 0.5,
    "same_sequences": 0.8,
    "found_again": 0.8,
    "box_overlap": 0.75,
    "mask_iou": 0.8,
    "keypoints_kept": 0.85,
    "same_highest": 0.8,
    "labels_kept": 0.8,
    "cosine": 0.95,
    "same_nearest": 0.6,
    "explained": 0.85,
    "same_labels": 0.8,
}
_READ = {"label_fit": "masks or yes and no beside logits need --output NAME=probabilities"}
_HEAVY_ERROR = 0.5
_MANY_NEW = 0.5  # detections that the original does not make, per one that it makes
NOT_FASTER = 0.97
"""Share of the original's time from which on a result counts as not faster."""


def slow_result(time: TimeReport | None, *, lossless: bool = False, rounded: bool = False) -> tuple[str, ...]:
    """What to say of a result that takes about as long as its original; nothing where noise hides it.

    Args:
        time: as measured.
        lossless: whether the result was to lose nothing, so that no budget said how small it is.
        rounded: whether its widths are known to be such as kernels are fast at.
    """
    if time is None or time.is_noisy or time.ratio <= NOT_FASTER:
        return ()
    more = "longer than" if time.ratio > 2 - NOT_FASTER else "about as long as"
    advice = (
        "what goes without loss saves no time here; a budget (--target latency=0.8) removes more, with loss"
        if lossless
        else "give a smaller budget, or ask for time (--target latency=0.8)"
        if rounded
        else "give a smaller budget, ask for time (--target latency=0.8), or keep --round-to at kernel"
    )
    figures = f"{time.ratio:.2f} of its time, {time.low:.2f} to {time.high:.2f}"
    return (f"the result takes {more} the original ({figures}); {advice}",)


def heavy_losses(metrics: Mapping[str, MetricChange]) -> tuple[str, ...]:
    """A warning for every metric that fell so far that part of the outputs may be useless.

    Where labels say how good a classifier is, how often it agrees with the original says nothing more; that it gave up
    one of its classes still does.

    Args:
        metrics: of `evaluation.metrics.compare`.
    """
    warnings = _blind_labels(metrics)
    labelled = not warnings and any(name in metrics for name in ("top1", "accuracy"))
    for name, change in metrics.items():
        base, _, output = name.partition("[")
        where = f" of {output.rstrip(']')!r}" if output else ""
        detail = f" ({change.detail})" if change.detail else ""
        if base in _LEFT:
            if labelled and base in ("agreement", "same_highest"):
                continue
            if not change.after >= _LEFT[base]:
                warnings.append(f"heavy loss: {SHARE_METRICS[base]}{where} falls to {percent(change.after)}{detail}")
        elif base in SHARE_METRICS and not change.before - change.after < _HEAVY:
            fall = f"from {percent(change.before)} to {percent(change.after)}"
            warnings.append(f"heavy loss: {SHARE_METRICS[base]}{where} falls {fall}")
        elif base == "new_detections" and not change.after <= _MANY_NEW:
            warnings.append(
                f"heavy loss: for 100 detections{where} of the original {100 * change.after:.0f} new ones are made"
            )
    error = metrics.get("relative_error")
    if error is not None and not warnings and not labelled and not error.after < _HEAVY_ERROR:
        warnings.append(f"heavy loss: the outputs differ from the original's by {percent(error.after)} of their size")
    return tuple(warnings)


def _blind_labels(metrics: Mapping[str, MetricChange]) -> list[str]:
    """A warning where labels say that the original is no better than an answer that does not look at its inputs."""
    return [
        f"by these labels the original itself has a {metric_name(name)} of {percent(change.before)}, no better than "
        f"without looking at the inputs ({percent(change.blind)}): labels, their order, how rows are prepared or what "
        f"outputs are read as ({_READ.get(name, '--output')}) do not fit, and what is lost by them says nothing"
        for name, change in metrics.items()
        if change.is_blind and change.blind is not None
    ]
