"""What users add to onnxprune: modules named on the command line, installed packages, and what workers must be told."""

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from onnxprune.core.errors import InputError
from onnxprune.core.user_code import told

Shipment = tuple[tuple[Callable[[Any], None], Any], ...]
"""Functions to call in a worker, each with its argument."""

_SHIPPED: list[tuple[Callable[[Any], None], Any]] = []


def import_plugin(module: str) -> None:
    """Import a module that registers operators or scorers; one in the current folder is found too.

    Args:
        module: its name, with dots; a trailing `.py` is let pass.

    Raises:
        InputError: it cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # worker processes are given the same paths
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        importlib.import_module(module.removesuffix(".py"))
    except (ImportError, SyntaxError, ValueError, TypeError, AttributeError, NameError) as error:
        raise InputError(f"--plugin {module}: the module cannot be imported ({told(error)})") from error


def installed(group: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What installed packages offer under an entry point group: names, and functions that import it.

    Importing raises InputError where the package is broken.
    """
    for point in _entry_points().select(group=group):

        def load(point: Any = point) -> Any:
            try:
                return point.load()
            except (ImportError, AttributeError, SyntaxError) as error:
                raise InputError(f"{group}: {point.name!r} cannot be imported ({told(error)})") from error

        yield point.name, load


@cache
def _entry_points() -> Any:
    """What all installed packages offer, read once."""
    from importlib.metadata import entry_points  # takes as long to import as all else that the help needs

    return entry_points()


def tell_workers(function: Callable[[Any], None], value: Any) -> None:
    """Have every worker call `function(value)` before its next task; both are sent by pickle."""
    _SHIPPED.append((function, value))


def for_workers() -> Shipment:
    """What goes along with a task."""
    return tuple(_SHIPPED)


def receive(shipment: Shipment) -> None:
    """In a worker: do what was sent along with a task."""
    for function, value in shipment:
        function(value)
