"""Errors of the option parser as one line, with what may be meant."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from onnxprune.cli.commands import COMMANDS

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""What the parser raises: click's `UsageError`, of the click that typer uses."""

_WRITERS = {"prune": "-o {}", "finetune": "-o {}", "sweep": "-o {} (a folder)"}
_ROWS = (".npz", ".npy")


def is_help(error: Exception) -> bool:
    """Whether it is no error, but the help that is shown where nothing is given."""
    return type(error).__name__ == "NoArgsIsHelpError"


def usage_message(error: Any, arguments: Sequence[str]) -> str:
    """One line on a usage error: what is wrong, what may be meant, and where all is listed.

    Args:
        error: one of `USAGE_ERROR`.
        arguments: of the command line.
    """
    command = next((word for word in arguments[:1] if word in COMMANDS), "")
    text = " ".join(str(error.format_message()).split()).partition(". Did you mean")[0].rstrip(".")
    option, known = getattr(error, "option_name", None), list(getattr(error, "possibilities", None) or ())
    said, meant = f"{text[:1].lower()}{text[1:]}", ""
    if type(error).__name__ == "NoSuchOption":
        said = f"no such option: {option}"
        meant = next(iter([*get_close_matches(str(option).replace("_", "-"), known, 1), *known]), "")
    elif "extra argument" in text:
        extra = text.rpartition("(")[2].rstrip(")")
        writes = "--data {}" if extra.endswith(_ROWS) else _WRITERS.get(command, "")
        said, meant = f"unexpected argument: {extra}", writes.format(extra)
    elif not command and arguments:
        meant = _command_meant(next((word for word in arguments if not word.startswith("-")), ""))
    hint = f"; is {meant} meant?" if meant else ""
    return f"{said}{hint} (onnxprune {command}{' ' * bool(command)}-h lists {'all options' if command else 'commands'})"


def _command_meant(word: str) -> str:
    if word.endswith(".onnx") or Path(word).is_file():
        return f"onnxprune prune {word}"
    return next(iter(get_close_matches(word, COMMANDS, 1)), "")
