"""Arguments of the Python functions: the forms that they may take, and the checks before a function runs."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from onnxprune.api.argument_types import config_of, fields_fitted, fitted
from onnxprune.api.hints import parameters_of, unknown_argument
from onnxprune.api.messages import told
from onnxprune.config import PruneConfig
from onnxprune.core.errors import InputError, OnnxPruneError
from onnxprune.core.options import check
from onnxprune.core.targets import Target
from onnxprune.graph.sizes import shape_texts
from onnxprune.importance import named

P = ParamSpec("P")
T = TypeVar("T")

Targets = str | float | Target | Mapping[str, str | float] | Iterable["str | Target"]
"""Budgets: `"macs=0.5"`, several texts, `{"macs": 0.5, "bytes": "2MB"}`, or `0.5`, a share of the multiply-adds."""

_LOOSE = ("targets", "importance", "shapes")  # fields of other forms than their annotations
_TEXTS = ("memory", "threshold")  # texts that may be numbers


def with_options(config: PruneConfig | None, options: Mapping[str, Any]) -> PruneConfig:
    """A copy of a config with single fields changed and all values checked; see `Targets` for the forms of `targets`.

    Raises:
        InputError: a value that is of another type or not allowed, or a target in another form.
    """
    config = config or PruneConfig()
    changed = {name: getattr(config, name) for name in (*_LOOSE, *_TEXTS)} | dict(options)
    changed["targets"] = tuple(_targets(changed["targets"]))
    if not isinstance(changed["importance"], str):  # the stages find a function by a name
        changed["importance"] = named(fitted(changed["importance"], Callable[..., Any] | str, "importance"))
    changed["shapes"] = shape_texts(changed["shapes"] or ())
    for name in _TEXTS:
        if isinstance(changed[name], int | float):
            changed[name] = str(changed[name])
    checked = fields_fitted(dataclasses.replace(config, **changed))
    check(checked)
    return checked


def _targets(given: Targets | None) -> Iterator[Target]:
    if given is None:
        return
    if isinstance(given, str | Real | Target):
        given = (given,)
    elif isinstance(given, Mapping):
        given = [f"{kind}={value}" for kind, value in given.items()]
    elif not isinstance(given, Iterable):
        raise InputError(f'targets: expected a budget such as 0.5 or "macs=0.5", got {type(given).__name__}')
    for item in typing.cast(Iterable[Any], given):
        yield item if isinstance(item, Target) else Target.parse(str(item))


def speaks_of_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator for functions of Python users: checks their arguments, and lets errors speak of them.

    Arguments that do not exist, and values of a type that the annotations do not name, are an `InputError` of one line.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            parameters = parameters_of(function)
            for name in kwargs:
                if name not in parameters:
                    raise InputError(unknown_argument(function, name))
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise InputError(f"{function.__name__}: {error}") from None
            for name, value in bound.arguments.items():
                if signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[name] = _checked(value, parameters[name], name)
            return function(*bound.args, **bound.kwargs)
        except OnnxPruneError as error:
            error.args = (told(str(error)), *error.args[1:])
            raise

    return call


def _checked(value: Any, hint: Any, name: str) -> Any:
    """A value of the type that its annotation names. `with_options` does the same for `PruneConfig`."""
    if isinstance(value, PruneConfig):
        return value
    config = config_of(hint)
    value = fitted(value, hint, name)
    if config is not None and value is not None:
        check(value)
    return value
