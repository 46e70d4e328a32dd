"""A user's own metric: a Python function of the outputs of two models and of labels."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxprune.config import OutputConfig
from onnxprune.core.errors import InputError
from onnxprune.core.results import MetricChange
from onnxprune.core.user_code import UserFunction

Metric = Callable[[Mapping[str, Any], Mapping[str, Any], "np.ndarray | None"], Mapping[str, float]]
"""From the outputs of the original and of a model, `(rows, ...)` by the original's names, and labels to figures; the
first rules an accuracy floor. Outputs whose size depends on values are lists with an array for each row. It is called
with the original in the model's place too."""


def check_metric(config: OutputConfig) -> None:
    """Check, before any work is done, that the user's function can be imported.

    Raises:
        InputError: there is no such function.
    """
    if isinstance(config.metric, str):
        with UserFunction(config.metric) as code:
            code.find()


def user_metric(
    metric: "str | Metric", ours: Mapping[str, Any], others: Mapping[str, Any], labels: np.ndarray | None
) -> dict[str, MetricChange]:
    """The values of a user's metric for both models, the main one first.

    Args:
        metric: `package.module:function`, or the function.
        ours: outputs of the original.
        others: outputs of the other model.
        labels: of the rows; None where there are none.

    Raises:
        InputError: the function fails, or returns something else than numbers.
    """
    if not isinstance(metric, str):
        return _changes(metric, getattr(metric, "__name__", "the metric"), ours, others, labels)
    with UserFunction(metric) as code:
        return _changes(code.find(), metric, ours, others, labels)


def _changes(
    function: Callable[..., Any],
    told: str,
    ours: Mapping[str, Any],
    others: Mapping[str, Any],
    labels: np.ndarray | None,
) -> dict[str, MetricChange]:
    before, after = (_figures(function(ours, outputs, labels), told) for outputs in (ours, others))
    if [*before] != [*after]:
        raise InputError(f"{told} gave {', '.join(before)} for one model and {', '.join(after)} for the other")
    return {
        name: MetricChange(value, after[name], rules=number == 0) for number, (name, value) in enumerate(before.items())
    }


def _figures(given: Any, told: str) -> dict[str, float]:
    """The values that a user's metric returned, by name."""
    figures = given if isinstance(given, Mapping) else {"metric": given}
    if not figures:
        raise InputError(f"{told} returned no figures; it must return a number, or figures by name")
    try:
        return {str(name): float(value) for name, value in figures.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{told} returned a {type(given).__name__} ({error}); it must return a number, or figures by name"
        ) from error
