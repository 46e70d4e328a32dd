"""The TOML file of `--config`: reads it, and writes the commented template of `onnxprune config`."""

import difflib
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.cli.options import Option, Section, options
from onnxprune.core.errors import InputError
from onnxprune.core.files import read_text

_MOST_BYTES = 1 << 24


def read(path: Path, known: Iterable[Section]) -> Mapping[str, Any]:
    """Read a TOML file with options.

    Args:
        path: the file.
        known: the sections of all commands; one file may serve several.

    Raises:
        InputError: the file cannot be read, is not TOML, or holds a key that no command knows.
    """
    try:
        data = tomllib.loads(read_text(path, _MOST_BYTES))
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not only of tomllib's own
        raise InputError(f"--config {path} is not a TOML file: {error}") from None
    names = {".".join(option.key) for section in known if section.in_file for option in options(section)}
    for key in _keys(data):
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; onnxprune config shows all"
            raise InputError(f"--config {path}: unknown key {key!r}{hint}")
    return data


def _keys(table: Mapping[str, Any]) -> Iterator[str]:
    waiting = [(table, "")]
    while waiting:
        inner, prefix = waiting.pop(0)
        for name, value in inner.items():
            if isinstance(value, Mapping):
                waiting.append((value, f"{prefix}{name}."))
            else:
                yield prefix + name


def template(sections: Sequence[Section]) -> str:
    """All options as a commented TOML file."""
    tables: dict[tuple[str, ...], dict[str, list[Option]]] = {}
    for section in (section for section in sections if section.in_file):
        for option in options(section):
            headings = tables.setdefault(option.key[:-1], {})
            listed = headings.setdefault(option.title, [])
            if option.key not in {other.key for same in headings.values() for other in same}:
                listed.append(option)
    lines = [
        "# Options of onnxprune: onnxprune prune MODEL.onnx --config THIS_FILE",
        '# The command line wins. An empty text ("") leaves an option as if it were not here.',
    ]
    for table in sorted(tables, key=len):
        lines += ["", f"[{'.'.join(table)}]"] if table else []
        for heading, entries in tables[table].items():
            lines += ["", f"# {heading}"] if entries else []
            for option in entries:
                text = _described(option) + (f" By default {option.keys[1][0]} above." if len(option.keys) > 1 else "")
                lines += ["", *textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")]
                lines.append(f"# {option.key[-1]} = {_example(option)}")
    return "\n".join(lines) + "\n"


def _example(option: Option) -> str:
    """The default value, or an empty text where there is none."""
    value = option.field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple) or option.is_repeatable:
        return "[]"
    return f'"{value or ""}"'


def _described(option: Option) -> str:
    choices = option.choices
    return option.help + (f" One of {', '.join(choices)}." if choices and option.metavar != "NAME" else "")
