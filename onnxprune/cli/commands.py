"""The list of commands; their modules are imported when it is asked for."""

import importlib
from typing import Any

COMMANDS = ("prune", "sweep", "inspect", "score", "validate", "bench", "finetune", "ops", "config")
"""Modules of `cli` in the order of the help; each has a function of its own name marked with `@command`."""


def commands() -> dict[str, Any]:
    """All commands by name, in the order of the help."""
    return {name: getattr(importlib.import_module(f"onnxprune.cli.{name}"), name) for name in COMMANDS}
