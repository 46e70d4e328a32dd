"""Config dataclasses as command-line options and back. Each option is declared once, in its dataclass.

A field `oamip.time_limit` is the option `--oamip-time-limit` and the TOML key `time-limit` in the table `[oamip]`.
Tuples of numbers are written `A,B,C`; tuples of anything else may be given several times. Whatever the command line
leaves out comes from the TOML file, then from the dataclass. An empty text in the file leaves an option out too.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from onnxprune.core.errors import InputError
from onnxprune.core.options import check
from onnxprune.core.targets import Target
from onnxprune.importance import scorer_names

T = TypeVar("T")
SHORT = 16
"""Characters of a list of choices that the help writes in place of the value; it tells longer ones in words."""


@dataclass(frozen=True, slots=True)
class Section:
    """A config dataclass in a command.

    Attributes:
        title: heading in the help.
        config: the dataclass.
        table: its TOML table; the top level where empty.
        omit: fields that are no options here.
        in_file: whether the TOML file may hold the options.
    """

    title: str
    config: type
    table: str = ""
    omit: tuple[str, ...] = ()
    in_file: bool = True


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        section: where it belongs.
        path: field names that lead to the value, from the section's dataclass.
        field: the dataclass field.
        hint: its type.
        title: heading in the help.
    """

    section: Section
    path: tuple[str, ...]
    field: "dataclasses.Field[Any]"
    hint: Any
    title: str

    @property
    def key(self) -> tuple[str, ...]:
        """The TOML tables and the key, for example `("oamip", "time-limit")`."""
        tables = (self.section.table,) if self.section.table else ()
        name = self.field.metadata.get("name") or self.field.name.strip("_").replace("_", "-")
        return (*tables, *self.path[:-1], name)

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """The keys that are looked up in turn: its own, then that of the top level which means the same, if any."""
        shared = self.field.metadata.get("shared")
        return (self.key, (shared,)) if shared else (self.key,)

    @property
    def flag(self) -> str:
        """The command-line option, for example `--oamip-time-limit`."""
        return str(self.field.metadata.get("flag") or "--" + "-".join(self.key[bool(self.section.table) :]))

    @property
    def parameter(self) -> str:
        """The name as a Python parameter: of the flag, since fields of two sections may have one name."""
        return self.flag.strip("-").replace("-", "_")

    @property
    def is_switch(self) -> bool:
        """True for booleans, which take no value."""
        return self.hint is bool

    @property
    def is_repeatable(self) -> bool:
        """True where the option may be given several times."""
        return typing.get_origin(self.hint) is tuple and typing.get_args(self.hint)[0] is not float

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, those that plug-ins registered so far included; none where any is."""
        if self.field.metadata.get("registry") == "scorers":
            return scorer_names()
        return tuple(self.field.metadata.get("choices", ()))

    @property
    def metavar(self) -> str:
        """What the help writes for the value."""
        choices, given = self.choices, self.field.metadata.get("metavar")
        if given:
            return str(given)
        if choices:
            listed = "|".join(choices)
            return listed if len(listed) <= SHORT else "NAME"
        kinds = {int: "N", float: "X", Path: "FILE"}
        return next((kinds[kind] for kind in _members(self.hint) if kind in kinds), "TEXT")

    @property
    def help(self) -> str:
        """The help, with the choices in words where they are many."""
        choices = self.choices
        more = f" One of {', '.join(choices)}." if choices and self.metavar == "NAME" else ""
        return str(self.field.metadata.get("help", "")) + more

    @property
    def default_text(self) -> str:
        """The default as the help and the template show it; empty where there is none."""
        value = self.field.default
        if value is None or value == () or isinstance(value, bool):
            return ""
        return str(value)

    def convert(self, value: Any, where: str) -> Any:
        """The field's value from what the command line or the TOML file holds.

        Raises:
            InputError: the value has the wrong type; `where` (the flag or the TOML key) starts the message.
        """
        return _convert(value, self.hint, where)


def options(section: Section) -> Iterator[Option]:
    """The options of a section, those of nested dataclasses included."""

    def walk(config: type, path: tuple[str, ...], title: str) -> Iterator[Option]:
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            hint = hints[field.name]
            if field.name in section.omit and not path:
                continue
            if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint is not Target:
                yield from walk(hint, (*path, field.name), _title(hint))
            else:
                yield Option(section, (*path, field.name), field, hint, title)

    yield from walk(section.config, (), section.title)


@dataclass(frozen=True, slots=True)
class Options:
    """The values of all options of a command, one instance of each section's dataclass.

    Attributes:
        values: see above.
        file: the configuration file that they were read from, or None.
    """

    values: Mapping[type, Any]
    file: Path | None = None

    def get(self, config: type[T]) -> T:
        """The instance of one dataclass."""
        return typing.cast(T, self.values[config])


def build(sections: Sequence[Section], given: Mapping[str, Any], file: Mapping[str, Any], file_name: str) -> Options:
    """Put the command line over the TOML file over the defaults.

    Args:
        sections: the command's sections.
        given: values of the command line by `Option.parameter`; None or an empty list where the user gave none.
        file: the parsed TOML file.
        file_name: its name, for messages.

    Raises:
        InputError: an unknown key in the file, or a value of the wrong type or outside its range.
    """
    used: set[tuple[str, ...]] = set()
    instances: dict[type, Any] = {}
    for section in sections:
        nested: dict[str, Any] = {}
        for option in options(section):
            used.add(option.key)
            value, where = given.get(option.parameter), option.flag
            if value is None or value == []:
                found = [(key, held) for key in option.keys if (held := _lookup(file, key)) not in (None, "")]
                if not found or not section.in_file:
                    continue
                key, value = found[0]
                where = f"{file_name}: {'.'.join(key)}"
            value = option.convert(value, where)
            if "registry" in option.field.metadata and value not in option.choices:
                raise InputError(f"{option.key[-1]}: {value!r} is unknown; use one of {', '.join(option.choices)}")
            inner = nested
            for name in option.path[:-1]:
                inner = inner.setdefault(name, {})
            inner[option.path[-1]] = value
        instances[section.config] = _instance(section.config, nested)
        check(instances[section.config])
    return Options(instances)


def _title(config: type) -> str:
    """The first line of a dataclass' docstring as a heading."""
    return (config.__doc__ or config.__name__).splitlines()[0].rstrip(".").replace("`", "")


def _instance(config: type, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(config)
    return config(**{name: _instance(hints[name], v) if isinstance(v, Mapping) else v for name, v in values.items()})


def _lookup(table: Any, key: tuple[str, ...]) -> Any:
    for name in key:
        if not isinstance(table, Mapping) or name not in table:
            return None
        table = table[name]
    return table


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, without None."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(member for member in typing.get_args(hint) if member is not types.NoneType)
    return (hint,)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _convert(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if item is float and isinstance(value, str):
            text, value = value, value.split(",") if value.strip() else []
            if not all(part.strip() for part in value):
                raise InputError(f"{where}: {text!r} lacks a number beside a comma; write A,B,C")
        rows = value if isinstance(value, list) else [value]
        return tuple(_convert(row, item, where) for row in rows)
    members = _members(hint)
    for member in members:
        try:
            return _scalar(value, member)
        except (ValueError, TypeError):
            continue
    raise InputError(
        f"{where}: {value!r} is not {' or '.join(_WORDS[member] for member in members if member in _WORDS)}"
    )


def _scalar(value: Any, kind: Any) -> Any:
    if kind is Target:
        return Target.parse(value if isinstance(value, str) else repr(value))
    if isinstance(value, bool) != (kind is bool) or isinstance(value, list | dict):
        raise TypeError
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return kind(value)
