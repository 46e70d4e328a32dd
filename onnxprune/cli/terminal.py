"""What a command shows while it works: progress, notes and summaries on stderr, machine reports on stdout."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from onnxprune.cli.files import write_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from onnxprune.core.clock import Progress

WIDTH = 110
"""Columns where stderr is not a terminal."""


class Terminal:
    """stderr for people. Within `with`, stdout is kept free: whatever libraries print there goes to stderr.

    Args:
        quiet: show nothing.
        verbose: show what the stages log.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._stdout = -1
        self._console: Console | None = None

    def __enter__(self) -> Self:
        # Solvers and runtimes write to file descriptor 1 from C, past sys.stdout.
        sys.stdout.flush()
        self._stdout = os.dup(1)
        os.dup2(2, 1)
        if self.verbose:
            from rich.logging import RichHandler

            logger = logging.getLogger("onnxprune")
            logger.setLevel(logging.DEBUG)
            logger.addHandler(RichHandler(console=self.console, show_path=False, show_level=False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()
        os.dup2(self._stdout, 1)
        os.close(self._stdout)

    @property
    def console(self) -> "Console":
        """The rich console on stderr; obeys NO_COLOR."""
        if self._console is None:
            from rich.console import Console

            width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else WIDTH
            self._console = Console(stderr=True, width=width, highlight=False, soft_wrap=False)
        return self._console

    def show(self, *what: "RenderableType") -> None:
        """Print for people."""
        if not self.quiet:
            self.console.print(*what)

    def machine(self, text: str) -> None:
        """Write to the real stdout."""
        with os.fdopen(os.dup(self._stdout), "w", encoding="utf-8") as stream:
            stream.write(text)

    def report(self, path: Path | None, build: Callable[[], Mapping[str, Any]]) -> None:
        """Write a machine report where `--json` says: a file, stdout for "-", nowhere for None."""
        if path is None:
            return
        from onnxprune.report.json_report import to_text

        if str(path) == "-":
            self.machine(to_text(build()))
        else:
            write_text(path, to_text(build()))

    @contextlib.contextmanager
    def progress(self) -> Iterator["Progress"]:
        """Bars with the time left, one for each stage; nothing where stderr is not a terminal."""
        if self.quiet or not self.console.is_terminal:
            from onnxprune.core.clock import no_progress

            yield no_progress
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            tasks = {}
            totals: dict[str, int] = {}

            def step(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total or None)
                if (done, total) == (1, 1):  # the end of a stage, which may have counted steps of its own
                    done = total = totals.get(stage) or 1
                totals[stage] = total
                bars.update(tasks[stage], completed=done, total=total or None)

            yield step
