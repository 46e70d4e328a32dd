"""docs/cli.md knows every option of every command, and no other."""

import re
from pathlib import Path

import pytest

from onnxprune.cli.commands import COMMANDS, commands
from onnxprune.cli.options import options

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)}
SHARED = "Options of several commands"
EVERYWHERE = {"--config", "--help", "--version"}


def flags(command: str) -> set[str]:
    return {option.flag for section in commands()[command].sections for option in options(section)}


def mentioned(text: str) -> set[str]:
    return {re.sub("^--no-", "--", name) for name in re.findall(r"(?<![-\w])--[a-z0-9][a-z0-9-]*", text)}


def named(subject: str) -> set[str]:
    """Options that a section of the shared options names, where its first sentence lists the command."""
    parts = re.split(r"^### ", SECTIONS[SHARED], flags=re.MULTILINE)[1:]
    listed = (part.partition("\n")[2].strip().partition(".")[0] for part in parts)
    return {
        flag
        for part, line in zip(parts, listed, strict=True)
        if f"`{subject}`" in line or "Every command" in line
        for flag in mentioned(part)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    own = mentioned(SECTIONS[command])
    if command == "sweep":
        own |= mentioned(SECTIONS["prune"])  # which the section refers to
    assert flags(command) <= own | named(command)


def test_no_option_is_documented_that_no_command_has() -> None:
    known = {flag for command in COMMANDS for flag in flags(command)} | EVERYWHERE
    assert mentioned(TEXT) <= known
