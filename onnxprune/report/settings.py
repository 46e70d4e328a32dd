"""The settings of a run in the words of the command line."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.config import PruneConfig
from onnxprune.core.targets import Target


def settings_in_words(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Options and their values, as `--round-to` and `kernel`, in the order of the help.

    Args:
        settings: of `PruneOutcome.settings`; a name that is no option is told as it is.
    """
    return tuple(_walk(PruneConfig, settings, ()))


def _walk(config: type | None, settings: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    known = {} if config is None else {field.name: field for field in dataclasses.fields(config)}
    hints = {} if config is None else typing.get_type_hints(config)
    for name, value in settings.items():
        hint = hints.get(name)
        if isinstance(value, Mapping):
            yield from _walk(hint if isinstance(hint, type) else None, value, (*path, name))
        else:
            about = known[name].metadata if name in known else {}
            words = about.get("name") or name.strip("_").replace("_", "-")
            yield about.get("flag") or "--" + "-".join((*path, words)), _value(value)


def _value(value: Any) -> str:
    if value is None or value in ((), []):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, Mapping):
        return str(Target(**value))
    if callable(value):
        return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
    return f"{value:g}" if isinstance(value, float) else str(value)
