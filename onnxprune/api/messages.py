"""Messages in the words of whoever is told.

They are written in the words of the command line. What Python users are told speaks of arguments instead:
`--max-drop 1` is `max_drop=1`, `--oamip-images` is `oamip.images`, `--no-time` is `time=False`.
"""

import dataclasses
import functools
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from onnxprune.config import FinetuneConfig, PreprocessConfig, PruneConfig, SweepConfig
from onnxprune.importance import scorer_names

_OPTION = re.compile(r"--(?P<no>no-)?(?P<name>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?P<value>[ ](?:'[^']*'|\"[^\"]*\"|\S+))?")
_NUMBER = re.compile(r"-?[0-9.]+")
_FOR_COMMANDS = ContextVar("_FOR_COMMANDS", default=False)


@contextmanager
def for_commands() -> Iterator[None]:
    """Within this, messages stay in the words of the command line."""
    before = _FOR_COMMANDS.set(True)
    try:
        yield
    finally:
        _FOR_COMMANDS.reset(before)


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
