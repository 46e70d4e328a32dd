"""What is said of an argument that a function does not have: what may be meant, and where all are listed."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from onnxprune.api.argument_types import config_of, hints_of
from onnxprune.config import PruneConfig

_WRITERS = ("out", "output", "output_path", "out_path", "save", "save_path", "json", "html", "report")
_NAMES = {  # what others call the same
    "eval": "evaluation",
    "eval_data": "evaluation",
    "test": "evaluation",
    "calibration": "data",
    "calibration_data": "data",
    "learning_rate": "lr",
    "batch_size": "batch",
}
_ALL_RESULTS = {"prune": "result", "sweep": "swept[0].result", "finetune": "trained"}
_SWEPT = ("targets", "max_drop", "threshold", "minimise", "lossless", "fail_if_slower")  # no budgets of `sweep`


def unknown_argument(function: Callable[..., Any], name: str) -> str:
    """The message on an argument that a function does not have."""
    title = function.__name__
    return f"unknown argument {name!r}{_meant(function, name)}; help(onnxprune.{title}) lists all arguments"


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's arguments by name; `**options` are the fields of `PruneConfig`."""
    parameters = inspect.signature(function).parameters.values()
    loose = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {item.name: item.annotation for item in parameters if item.kind is not item.VAR_KEYWORD}
    return {**(hints_of(PruneConfig) if loose else {}), **named}


def _meant(function: Callable[..., Any], name: str) -> str:
    title, parameters = function.__name__, parameters_of(function)
    if name in _WRITERS and title in _ALL_RESULTS:
        result = _ALL_RESULTS[title]
        also = "" if title == "finetune" else f", {result}.report(path) a report"
        return f": {title} returns its result; {result}.save(path) writes the model{also}"
    plain = name.replace("-", "_")
    wanted = _NAMES.get(plain, plain)
    if wanted in parameters:
        return f"; is {wanted!r} meant?"
    if title == "sweep" and wanted in _SWEPT:
        return ": the budgets of a sweep are points=onnxprune.SweepConfig(points=..., highest=..., lowest=...)"
    inside = dict(_inside(parameters))
    if wanted in inside:
        return f"; is {inside[wanted]} meant?"
    if wanted in hints_of(PruneConfig):
        return f": it is an argument of onnxprune.prune, not of {title}"
    near = [repr(like) for like in get_close_matches(wanted, parameters, 3, 0.65)]
    near = near or [inside[like] for like in get_close_matches(wanted, inside, 1, 0.75)]
    return f"; is {' or '.join(near)} meant?" if near else ""


def _inside(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields of the configs among arguments, also by their option's name, and how each is given."""
    for argument, hint in reversed(list(parameters.items())):  # of two of one name the first counts
        config = config_of(hint)
        if config is None or (config is PruneConfig and "targets" in parameters):
            continue
        for field in dataclasses.fields(config):
            text = f"{argument}=onnxprune.{config.__name__}({field.name}=...)"
            yield field.name, text
            yield field.metadata.get("name", field.name), text
            yield field.metadata.get("flag", f"--{argument}-{field.name}")[2:].replace("-", "_"), text
