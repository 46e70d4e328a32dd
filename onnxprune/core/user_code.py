"""Calls functions that users name as `package.module:function`, and reports their errors clearly.

What such code raises, SystemExit too, is an InputError that names the function; only Ctrl-C passes. While it runs, the
folder that the command was started in is searched for modules, so that it can import what lies beside it.
"""

import importlib
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onnxprune.core.errors import InputError
from onnxprune.core.text import visible

_FORM = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.\w+)*):(?P<function>[A-Za-z_]\w*)")


def names_function(text: str) -> bool:
    """Whether a text has the form `package.module:function`."""
    return _FORM.fullmatch(text) is not None


def module_file(spec: str) -> Path | None:
    """The file that a function's module is loaded from; None where there is none."""
    match = _FORM.fullmatch(spec)
    if match is None:
        return None
    file = getattr(sys.modules.get(match["module"]), "__file__", None)
    path = Path(*match["module"].split(".")).with_suffix(".py").absolute() if file is None else Path(file)
    return path if path.is_file() else None


class UserFunction:
    """A function of the user, to be called inside a `with` block that turns its errors into clear ones.

    Args:
        spec: `package.module:function`.

    Raises:
        InputError: in the block, whatever the user's code raises.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._folder: str | None = None

    def __enter__(self) -> Self:
        # A console script does not look into the current folder, where the user's own module usually lies.
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
            self._folder = here
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._folder is not None:
            with suppress(ValueError):  # the user's code may have changed the list
                sys.path.remove(self._folder)
        if error is None or isinstance(error, KeyboardInterrupt | InputError):
            return
        if isinstance(error, SystemExit):
            raise InputError(f"{self._spec} ended the program ({told(error)}); let it return") from error
        raise InputError(f"{self._spec} failed: {told(error)}") from error

    def find(self) -> Callable[..., Any]:
        """Import the function.

        Raises:
            InputError: there is no such module, it cannot be imported, or has no such function.
        """
        match = _FORM.fullmatch(self._spec)
        if match is None:
            raise InputError(f"{self._spec!r} is not of the form package.module:function{_meant(self._spec)}")
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(match["module"])
        except (ImportError, SyntaxError) as error:
            why = _meant(self._spec) or f" ({told(error)})"
            raise InputError(f"{self._spec}: module {match['module']!r} cannot be imported{why}") from error
        function = getattr(module, match["function"], None)
        if not callable(function):
            raise InputError(f"{self._spec}: module {match['module']!r} has no function {match['function']!r}")
        usable: Callable[..., Any] = function
        return usable


def _meant(spec: str) -> str:
    """The name of a module that was written as its file: `folder/measure.py:recall`."""
    path, _, function = spec.rpartition(":")
    name = f"{path.removesuffix('.py').replace('/', '.').strip('.')}:{function}"
    return f"; write the name of the module, {name}" if path.endswith(".py") and names_function(name) else ""


def told(error: BaseException) -> str:
    """An error as one line: its type and message."""
    return visible(traceback.format_exception_only(error)[-1].strip(), 500)
