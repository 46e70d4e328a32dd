"""Arguments of the Python functions: the forms that they may take, and their names in messages.

Messages are written in the words of the command line. What Python users are told speaks of arguments instead:
`--max-drop 1` is `max_drop=1`, `--oamip-images` is `oamip.images`, `--no-time` is `time=False`.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from onnxprune.api.argument_types import config_of, fields_fitted, fitted
from onnxprune.api.hints import parameters_of, unknown_argument
from onnxprune.config import FinetuneConfig, PreprocessConfig, PruneConfig, SweepConfig
from onnxprune.core.errors import InputError, OnnxPruneError
from onnxprune.core.options import check
from onnxprune.core.targets import Target
from onnxprune.graph.sizes import shape_texts
from onnxprune.importance import named, scorer_names

P = ParamSpec("P")
T = TypeVar("T")

Targets = str | float | Target | Mapping[str, str | float] | Iterable["str | Target"]
"""Budgets: `"macs=0.5"`, several texts, `{"macs": 0.5, "bytes": "2MB"}`, or `0.5`, a share of the multiply-adds."""

_OPTION = re.compile(r"--(?P<no>no-)?(?P<name>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?P<value>[ ](?:'[^']*'|\"[^\"]*\"|\S+))?")
_NUMBER = re.compile(r"-?[0-9.]+")
_LOOSE = ("targets", "importance", "shapes")  # fields of other forms than their annotations
_TEXTS = ("memory", "threshold")  # texts that may be numbers
_FOR_COMMANDS = ContextVar("_FOR_COMMANDS", default=False)


def with_options(config: PruneConfig | None, options: Mapping[str, Any]) -> PruneConfig:
    """A copy of a config with single fields changed and all values checked; see `Targets` for the forms of `targets`.

    Raises:
        InputError: a value that is of another type or not allowed, or a target in another form.
    """
    config = config or PruneConfig()
    changed = {name: getattr(config, name) for name in (*_LOOSE, *_TEXTS)} | dict(options)
    changed["targets"] = tuple(_targets(changed["targets"]))
    if callable(changed["importance"]):  # the stages find it by a name
        changed["importance"] = named(changed["importance"])
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


@contextmanager
def for_commands() -> Iterator[None]:
    """Within this, messages stay in the words of the command line."""
    before = _FOR_COMMANDS.set(True)
    try:
        yield
    finally:
        _FOR_COMMANDS.reset(before)


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


def told(message: str) -> str:
    """A message as the user is told it: for Python users with arguments in place of options."""
    if _FOR_COMMANDS.get():
        return message
    message = re.sub(r"^[a-z]+(?:-[a-z]+)+(?=: )", lambda match: match[0].replace("-", "_"), message)
    return _OPTION.sub(_argument, message).replace("`onnxprune inspect`", "`onnxprune.analyze`")


def told_all(messages: Iterable[str]) -> tuple[str, ...]:
    """`told`, of several."""
    return tuple(map(told, messages))


def _argument(match: "re.Match[str]") -> str:
    name, value = match["name"], match["value"] or ""
    known = _arguments().get(name)
    if known is None:
        return match[0]
    argument, field = known
    if field is not None and isinstance(field.default, bool):
        return f"{argument}={not match['no']}{value}"
    text = value[1:].rstrip(",;:).")
    if not _is_value(text, name, field):
        return argument + value
    quoted = text if text[:1] in "'\"" or _NUMBER.fullmatch(text) else f'"{text}"'
    return f"{argument}={quoted}{value[1 + len(text) :]}"


def _is_value(text: str, name: str, field: "dataclasses.Field[Any] | None") -> bool:
    """Whether the word behind an option is its value, and not one of the sentence."""
    if not text:
        return False
    words = () if field is None else (*field.metadata.get("choices", ()), *field.metadata.get("words", ()))
    named = text in words or (name == "importance" and text in scorer_names())
    return named or text[0] in "'\"" or "=" in text or "://" in text or _NUMBER.fullmatch(text) is not None


@functools.cache
def _arguments() -> "Mapping[str, tuple[str, dataclasses.Field[Any] | None]]":
    """The argument of every option, by its name without the dashes, and the field that it is declared in."""
    found: dict[str, tuple[str, dataclasses.Field[Any] | None]] = {
        name: (name, None) for name in ("data", "confirm", "plan", "teacher", "validation", "checkpoint")
    }
    found["eval"] = ("evaluation", None)
    places = (
        (PruneConfig, ""),
        (PreprocessConfig, "preprocess."),
        (FinetuneConfig, "config."),
        (SweepConfig, "points."),
    )
    for config, prefix in places:
        for name, argument, field in _fields_of(config, "", prefix):
            found.setdefault(name, (argument, field))
    return found


def _fields_of(config: type, table: str, prefix: str) -> "Iterator[tuple[str, str, dataclasses.Field[Any]]]":
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, plain = hints[field.name], field.name.strip("_").replace("_", "-")
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _fields_of(hint, f"{field.name}-", f"{field.name}.")
        else:
            name = field.metadata.get("flag") or f"--{table}{field.metadata.get('name') or plain}"
            yield name.removeprefix("--"), f"{prefix}{field.name}", field
