"""Progress bars with the time left, one a stage, on a terminal or in a notebook."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from onnxprune.core.clock import Progress, no_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


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
    if console.is_jupyter and find_spec("ipywidgets") is not None:
        console = Console()
    elif console.is_jupyter or not console.is_terminal:
        yield no_progress
        return
    with bars(console) as shown:
        yield shown


def _is_interactive() -> bool:
    """Whether somebody types the code: at Python's prompt or in IPython, which notebooks run too."""
    return hasattr(sys, "ps1") or "get_ipython" in vars(sys.modules["builtins"])
