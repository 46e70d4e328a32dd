"""What the terminal shows while a command works."""

import io
import re

import pytest
from rich.console import Console

from onnxprune.cli.terminal import Terminal
from onnxprune.core.clock import Clock


@pytest.fixture
def terminal() -> Terminal:
    made = Terminal()
    made._console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    return made


def lines(terminal: Terminal) -> list[str]:
    """The bars as last drawn, without their bar."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "\n", terminal.console.file.getvalue())  # type: ignore[attr-defined]
    return [" ".join(word for word in line.split() if "\u2501" not in word) for line in text.split("\n")]


def test_a_stage_that_counted_its_steps_ends_at_their_number(terminal: Terminal) -> None:
    with terminal.progress() as progress:
        clock = Clock(progress)
        with clock.stage("remove"):
            pass
        for _ in range(2):
            with clock.stage("trials"):
                progress("trials", 0, 3)
                progress("trials", 2, 3)
    shown = lines(terminal)
    assert any(line.startswith("trials 3/3") for line in shown[-20:])
    assert any(line.startswith("remove 1/1") for line in shown[-20:])
    assert not any(line.startswith("trials 1/1") for line in shown)
