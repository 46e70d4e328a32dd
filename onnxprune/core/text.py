"""Helpers for texts in messages."""

import re
from collections.abc import Mapping

from onnxprune.core.results import MetricChange

NAME = 200
"""Characters of a name that people are shown."""

MESSAGE = 2000
"""Characters of a message."""

# Control characters (line breaks too), what turns the direction of writing, and halves of characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def visible(text: str, most: int = NAME) -> str:
    """Make text from a file safe to print: control characters are escaped, long text is cut.

    Args:
        text: for example a node's name.
        most: characters that are kept; of a longer text the middle is left out.
    """
    if len(text) > most:
        text = f"{text[: most // 2]}...{text[len(text) - most // 2 :]} ({len(text)} characters)"
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shortened(text: str, most: int) -> str:
    """Text of at most so many characters; of a longer one the middle is left out, since names differ at both ends."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def visible_lines(text: str) -> str:
    """Like `visible`, for text of several lines, which is not cut."""
    return "\n".join(visible(line, len(line)) for line in text.split("\n"))


def first_line(error: BaseException) -> str:
    """The first line of an exception's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def several(number: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{number} {what}{'s' * (number != 1)}"


SHARE_METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "accuracy": "accuracy",
    "label_iou": "overlap with the labels",
    "label_fit": "variance of the labels explained",
    "agreement": "agreement with the original",
    "worst_class": "agreement in the worst class",
    "same_sequences": "rows that read the same",
    "found_again": "detections found again",
    "box_overlap": "overlap of boxes found again (IoU)",
    "mask_iou": "mask overlap (IoU)",
    "keypoints_kept": "keypoints that stay in place",
    "same_highest": "same most probable entry",
    "labels_kept": "labels kept",
    "cosine": "cosine of embeddings",
    "same_nearest": "same nearest neighbour",
    "explained": "variance explained",
    "same_labels": "equal labels",
}
"""Metrics in [0, 1] that are better when higher, in words. A name may end in `[output]`."""

RATIO_METRICS = {"relative_error": "relative output error", "new_detections": "new detections"}
"""Metrics that are ratios, and better when lower, in words."""

_WORDS = {**SHARE_METRICS, **RATIO_METRICS, "latency_ms": "latency"}


def metric_name(name: str) -> str:
    """The readable name of a metric."""
    base, bracket, output = name.partition("[")
    words = _WORDS.get(base, base.replace("_", " "))
    return f"{words}, {output.rstrip(']')}" if bracket else words


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as percent."""
    return f"{100 * share:.{digits}f} %"


def points_lost(change: MetricChange) -> float:
    """By how many percentage points a share fell."""
    return 100 * (change.before - change.after)


def main_metric(metrics: Mapping[str, MetricChange]) -> str | None:
    """The metric that an accuracy floor applies to: of the eligible metrics, the one that fell most."""
    ruling = [name for name, change in metrics.items() if change.rules]
    # NaN has fallen most.
    return max(ruling, key=lambda name: (not metrics[name].after <= 2, points_lost(metrics[name])), default=None)
