"""Values of arguments beside their annotations: what fits is taken, what does not is told in one line.

A number stands for a tuple of one, a path for text, 100.0 for 100, and a list for a tuple, as on the command line and
in its file. Annotations that hold more than the types below (models, rows, sizes) are left to whoever reads the value.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.core.clock import Progress
from onnxprune.core.errors import InputError
from onnxprune.core.plan import PrunePlan
from onnxprune.core.targets import Target

T = TypeVar("T")

_LONGEST = 60  # characters of a value that a message repeats
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Executor: "an Executor",
    PrunePlan: "a PrunePlan",
    Target: "a Target",
}
_NONE = type(None)
_ACCEPTED: Mapping[Any, Any] = {bool: bool | np.bool_, int: Real, float: Real, str: str | Path}


class _UnfitError(Exception):
    """A value that an annotation does not take."""


def fitted(value: Any, hint: Any, name: str) -> Any:
    """A value as its annotation wants it.

    Args:
        value: what the user gave.
        hint: the annotation.
        name: the argument, for messages.

    Raises:
        InputError: the value is of another type.
    """
    kinds = _members(hint)
    if not all(map(_is_known, kinds)):
        return value
    for kind in kinds:
        try:
            return _as(value, kind, name)
        except _UnfitError:
            continue
    wanted = " or ".join(dict.fromkeys(_word(kind) for kind in kinds if kind is not _NONE))
    raise InputError(f"{name}: expected {wanted}, got {_shown(value)}{_instead(value, kinds, name)}")


def fields_fitted(config: T, name: str = "") -> T:
    """A config dataclass with its values as their annotations want them; `name` is the argument that it is.

    Raises:
        InputError: a value is of another type.
    """
    prefix = f"{name}." if name else ""
    changed = {}
    kind: Any = type(config)
    for key, hint in hints_of(kind).items():
        value = getattr(config, key)
        taken = fitted(value, hint, f"{prefix}{key}")
        if taken is not value:
            changed[key] = taken
    return dataclasses.replace(config, **changed) if changed else config  # type: ignore[type-var]


@functools.cache
def hints_of(config: type) -> Mapping[str, Any]:
    """The annotations of a dataclass' fields."""
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def config_of(hint: Any) -> type | None:
    """The config dataclass that an annotation asks for, if any."""
    return next((kind for kind in _members(hint) if _is_config(kind)), None)


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return typing.get_args(hint)
    return (hint,)


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__name__.endswith("Config")


def _is_function(kind: Any) -> bool:
    return kind is Progress or typing.get_origin(kind) is Callable


def _is_known(kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    return kind is _NONE or kind in _WORDS or _is_config(kind) or _is_function(kind)


def _word(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return {float: "a number or several", str: "text or several"}.get(item, f"several of {_word(item)}")
    if _is_config(kind):
        return f"a{'n' if kind.__name__[0] in 'AEIOU' else ''} {kind.__name__}"
    return "a function" if _is_function(kind) else _WORDS[kind]


def _as(value: Any, kind: Any, name: str) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
        return tuple(_as(part, item, name) for part in (value if several else (value,)))
    if _is_config(kind):
        if not isinstance(value, kind):
            raise _UnfitError
        return fields_fitted(value, name)
    if _is_function(kind):
        fits, taken = callable(value) and not isinstance(value, type), value
    else:
        accepted = _ACCEPTED.get(kind, kind)
        fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool | np.bool_))
        try:
            taken = kind(value) if fits and kind in _ACCEPTED else value
        except (OverflowError, ValueError):  # of numbers that are no finite ones
            raise _UnfitError from None
        fits = fits and (kind is not int or taken == value)
    if not fits:
        raise _UnfitError
    return taken


def _shown(value: Any) -> str:
    """A value in a message: its text where that is short, else its type."""
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= _LONGEST else "a long text"
    if isinstance(value, bool | Real | _NONE) and len(repr(value)) <= _LONGEST:
        return repr(value)
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    return f"a{'n' if type(value).__name__[0] in 'aeiouAEIOU' else ''} {type(value).__name__}"


def _instead(value: Any, kinds: Iterable[Any], name: str) -> str:
    """How to write what is meant, where a config is asked for."""
    config = config_of(next((kind for kind in kinds if _is_config(kind)), None))
    if config is None:
        return ""
    names = hints_of(config)
    given = dict(value) if isinstance(value, Mapping) else {name: value} if isinstance(value, Real) else {}
    values = ", ".join(f"{key}={held!r}" for key, held in given.items() if key in names)
    example = values if values and len(values) <= _LONGEST else f"{next(iter(names))}=..."
    return f"; write onnxprune.{config.__name__}({example})"
