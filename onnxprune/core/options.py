"""Fields of option classes: their help texts and limits, and the check of their values."""

import dataclasses
import inspect
import re
from math import isfinite
from typing import Any, TypeVar, get_args

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.errors import InputError

_UNITS = COST_KINDS["bytes"].units
_LEAST_MEMORY = 500 * 10**6
_LARGEST = (1 << 31) - 1
_MOST_MEMORY = 1 << 62
_LONGEST = 40  # digits of a number that a message repeats
_OPTION = re.compile(r"(?<!inspect )--([a-z]+(?:-[a-z]+)*)")
_ARGUMENTS = {"eval": "evaluation"}  # options that have another name in Python

T = TypeVar("T")

_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) *(?P<unit>[a-z]*)", re.I)


def option(default: Any, help_text: str, **metadata: Any) -> Any:
    """A dataclass field with help text and limits.

    `metadata` may add `choices` (or the `registry` that holds them), `minimum`, `maximum` (of whole numbers; by default
    2^31 - 1), `words` (what a number may be instead), `size` (a text that `parse_size` takes), `form` (a function that
    refuses values of another form), `metavar` (how the help writes the value), `name` (where the option is not called
    as the field), `flag` (where the command line calls it otherwise than the file does) and `shared` (the key at the
    top level of a file that counts where the table of the option does not have it).
    """
    return dataclasses.field(default=default, metadata={"help": help_text, **metadata})


def described(cls: type[T]) -> type[T]:
    """Class decorator: lists the fields of an option class in its docstring, in the words of Python's users."""
    text = inspect.cleandoc(cls.__doc__ or "")
    about, mark, example = text.partition("Example:")
    listed = "".join(_line(field) for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    checked = "Values that are not allowed are an `InputError` where a function takes them."
    cls.__doc__ = f"{about.strip()}\n\n{checked}\n\nAttributes:\n{listed}\n{mark}{example}"
    return cls


def _line(field: "dataclasses.Field[Any]") -> str:
    kind = field.type.__name__ if isinstance(field.type, type) and not get_args(field.type) else str(field.type)
    kind = re.sub(r"(?:\w+\.)+(?=\w)", "", kind)
    inner = (inspect.getdoc(field.type) or "").partition("\n")[0] if dataclasses.is_dataclass(field.type) else ""
    told = field.metadata.get("help", inner)
    told = _OPTION.sub(lambda match: _ARGUMENTS.get(match[1], match[1].replace("-", "_")), told)
    choices = ", ".join(map(str, field.metadata.get("choices", ())))
    among = f" One of {choices}." if choices else ""
    default = "" if field.default is dataclasses.MISSING else f", by default {field.default!r}"
    return f"    {field.name}: {told}{among} ({kind}{default})\n"


def check(config: Any) -> None:
    """Check all values of a config dataclass against their `choices`, `minimum` and `maximum`.

    Raises:
        InputError: a value is not allowed.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.strip("_").replace("_", "-")
        choices, minimum = field.metadata.get("choices"), field.metadata.get("minimum")
        if dataclasses.is_dataclass(value):
            check(value)
        if choices and value not in choices:
            raise InputError(f"{name}: {value!r} is unknown; use one of {', '.join(choices)}")
        words = field.metadata.get("words")
        if words and isinstance(value, str) and value not in words:
            raise InputError(f"{name}: {value!r} is neither a number nor {' or '.join(words)}")
        form = field.metadata.get("form")
        if form is not None:
            form(value)
        if field.metadata.get("size") and value is not None:
            parse_size(value)
        if minimum is not None and isinstance(value, int | float) and not value >= minimum:
            raise InputError(f"{name}: {_shown(value)} is too small; use {minimum:g} or more")
        if isinstance(value, int) and abs(value) > (most := field.metadata.get("maximum", _LARGEST)):
            raise InputError(f"{name}: {_shown(value)} is too large; use {most} or less")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not isfinite(number) for number in numbers):
            raise InputError(f"{name}: {_shown(value)} is no finite number")


def _shown(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"a number of {len(text)} digits"


def parse_size(text: str) -> int:
    """Number of bytes of a size such as `2GB`, `500MB` or a plain number.

    Raises:
        InputError: the text has another form, or the size is below what any run needs.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = None if match is None else _UNITS.get(match["unit"].lower())
    if match is None or unit is None:
        raise InputError(f"memory: {text!r} is no size; write for example 2GB or 500MB")
    if not _LEAST_MEMORY <= (size := float(match["number"]) * unit) < _MOST_MEMORY:
        raise InputError(f"memory: {text} is too {'small' if size < _LEAST_MEMORY else 'large'}; use 500MB or more")
    return int(size)
