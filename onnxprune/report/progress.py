"""Progress with the time left: bars on a terminal, one a stage, and a line in a notebook."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from onnxprune.core.clock import Progress, no_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


_PAUSE_S = 0.25  # between two updates of a notebook's line


@contextmanager
def bars(console: "Console") -> Iterator[Progress]:
    """Bars on a console; they go when the block ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Shown
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(),
    )
    with Shown(*columns, console=console, transient=True) as shown:
        tasks: dict[str, TaskID] = {}
        totals: dict[str, int] = {}

        def step(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total or None)
            if (done, total) == (1, 1):  # the end of a stage, which may have counted steps of its own
                done = total = totals.get(stage) or 1
            totals[stage] = total
            shown.update(tasks[stage], completed=done, total=total or None)

        yield step


@contextmanager
def followed(progress: Progress | bool | None) -> Iterator[Progress]:
    """What a Python caller asked for, as a callback.

    Args:
        progress: a callback; True for bars wherever they can be drawn, False for none; None for bars in notebooks and
            at the prompt, and none in scripts.
    """
    if progress is not None and not isinstance(progress, bool):
        yield progress
        return
    if progress is False or (progress is None and not _is_interactive()):
        yield no_progress
        return
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        with cell_line() as shown:
            yield shown
    elif console.is_terminal:
        with bars(console) as shown:
            yield shown
    else:
        yield no_progress


@contextmanager
def cell_line() -> Iterator[Progress]:
    """One line below a cell of a notebook: the stage, its steps and its time. Nothing of it stays when the block ends.

    rich draws in notebooks with ipywidgets, whose widgets stay in the file as empty outputs.
    """
    display = importlib.import_module("IPython.display").display
    handle = None
    running, began, drawn = "", 0.0, 0.0

    def step(stage: str, done: int, total: int) -> None:
        nonlocal handle, running, began, drawn
        now = monotonic()
        if stage == running and now - drawn < _PAUSE_S:
            return
        began, running, drawn = (began if stage == running else now), stage, now
        told = f"{stage}{f' {done}/{total}' if total > 1 else ''}, {now - began:.0f} s"
        left = f", {(now - began) * (total - done) / done:.0f} s left" if 0 < done < total else ""
        line = {"text/plain": told + left}
        if handle is None:
            handle = display(line, raw=True, display_id=True)
        else:
            handle.update(line, raw=True)

    try:
        yield step
    finally:
        if handle is not None:
            handle.update({}, raw=True)


def _is_interactive() -> bool:
    """Whether somebody types the code: at Python's prompt or in IPython, which notebooks run too."""
    return hasattr(sys, "ps1") or "get_ipython" in vars(sys.modules["builtins"])
