"""Values of the command line as the parser finds them: texts, lists of texts, switches.

typer converts every value, and what is not given as well, with pydantic, which takes as long to import as typer itself.
Here nothing is left to convert: `cli.options` reads the texts of options as it reads those of a file.
"""

from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup


class GivenCommand(TyperCommand):
    """A command whose values stay as they are given."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, `--help` too."""
        return _taken_as_given(super().get_params(ctx))


class GivenGroup(TyperGroup):
    """A group of commands whose own values stay as they are given."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, `--help` too."""
        return _taken_as_given(super().get_params(ctx))


def as_paths(value: Any) -> Any:
    """A path of a text, or several of a list of texts."""
    return [Path(item) for item in value] if isinstance(value, list | tuple) else Path(value)


def _taken_as_given(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if not isinstance(parameter.process_value, _Processing):
            parameter.process_value = _Processing(parameter)
    return parameters


class _Processing:
    """Stands for a parameter's `process_value`, which still says what is missing."""

    def __init__(self, parameter: Any) -> None:
        self._parameter, self._process = parameter, parameter.process_value
        self._several = parameter.multiple or parameter.nargs == -1

    def __call__(self, context: Any, value: Any) -> Any:
        parameter = self._parameter
        if value is None and not parameter.required:
            taken: Any = () if self._several else None
        elif isinstance(value, bool | str) and not self._several:
            taken = value
        elif self._several and isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            taken = list(value)
        else:
            return self._process(context, value)
        return taken if parameter.callback is None else parameter.callback(context, parameter, taken)
