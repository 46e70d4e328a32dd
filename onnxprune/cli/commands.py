"""The list of commands; their modules are imported when they are asked for."""

import importlib
from collections.abc import Iterable
from typing import Any

COMMANDS = ("prune", "sweep", "inspect", "score", "validate", "bench", "finetune", "ops", "config")
"""Modules of `cli` in the order of the help; each has a function of its own name marked with `@command`."""


def commands(names: Iterable[str] = COMMANDS) -> dict[str, Any]:
    """Commands by name, in the order of the help; all of them by default."""
    return {name: getattr(importlib.import_module(f"onnxprune.cli.{name}"), name) for name in names}
