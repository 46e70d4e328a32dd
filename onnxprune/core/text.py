"""Small pieces of text that messages share."""

from collections.abc import Mapping

from onnxprune.core.results import MetricChange


def first_line(error: BaseException) -> str:
    """The first line of an exception's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def several(number: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{number} {what}{'s' * (number != 1)}"


SHARE_METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "agreement": "agreement with the original"}


def main_metric(metrics: Mapping[str, MetricChange]) -> str | None:
    """The metric that an accuracy floor is about: accuracy where there are labels, else agreement."""
    return next((name for name in SHARE_METRICS if name in metrics), None)
