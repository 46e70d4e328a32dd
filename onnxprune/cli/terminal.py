"""Terminal output of commands: progress, notes and what became of files on stderr; what was asked for on stdout."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from onnxprune.core.errors import InputError
from onnxprune.core.files import moved, place
from onnxprune.core.text import MESSAGE, visible, visible_lines
from onnxprune.report.log import RESULT_LOG

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from onnxprune.core.clock import Progress

WIDTH = 110
"""Columns where a stream is not a terminal."""

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1")  # what `--json` calls it


def open_descriptors() -> None:
    """Open stdin, stdout and stderr where the process was started without them (`>&-`).

    The next file that is opened would get their number, and what libraries print would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR if number == 2 else os.O_RDONLY)  # writing to stdout fails, as it should
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def discard_stdout() -> None:
    """Drop unwritten output, so that it does not fail again at exit."""
    sys.stdout = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (stands for a stream of the process)


class Terminal:
    """Writes to stderr for people. Within `with`, libraries that print to stdout are sent to stderr.

    Args:
        quiet: show nothing.
        verbose: show what the stages log.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._stdout = -1
        self._console: Console | None = None
        self._failures: list[str] = []
        self._written: list[str] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # Solvers and runtimes write to file descriptor 1 from C, past sys.stdout.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        self._stdout = os.dup(1)
        self._open.callback(os.close, self._stdout)
        os.dup2(2, 1)
        self._open.callback(os.dup2, self._stdout, 1)
        self._open.enter_context(moved(1, self._stdout))
        self._listen()
        return self

    def _listen(self) -> None:
        """Show what is logged: all, or what it warns of. What other packages warn of is shown with all only."""
        ours, packages = logging.getLogger("onnxprune"), logging.getLogger("py.warnings")
        logging.captureWarnings(True)
        self._open.callback(logging.captureWarnings, False)
        packages.propagate = False
        if self.verbose:
            from rich.logging import RichHandler

            ours.setLevel(logging.DEBUG)
            handler: logging.Handler = RichHandler(console=self.console, show_path=False, show_level=False)
            handlers = {ours: handler, packages: handler}
        else:
            handlers = {ours: _Notes(self), packages: logging.NullHandler()}
        results = logging.getLogger(RESULT_LOG)
        handlers[results], results.propagate = logging.NullHandler(), False  # the summary says what it would
        self._open.callback(setattr, results, "propagate", True)
        for logger, chosen in handlers.items():
            logger.addHandler(chosen)
            self._open.callback(logger.removeHandler, chosen)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        self._open.close()

    @property
    def console(self) -> "Console":
        """The rich console on stderr; respects NO_COLOR."""
        if self._console is None:
            self._console = _console()
        return self._console

    def show(self, *what: "RenderableType") -> None:
        """Print for people. A closed stderr is ignored."""
        if self.quiet:
            return
        with contextlib.suppress(OSError):
            _print(self.console, *what)

    def answer(self, report: Path | None, *what: "RenderableType") -> None:
        """Print what a command was asked for to stdout, or as `show` does where the machine report takes stdout.

        A reader who has seen enough (`| head`) is no error; others are reported by `finish`.

        Args:
            report: where the machine report goes.
            what: the text.
        """
        if self.quiet or str(report) in _STDOUT:
            self.show(*what)
            return
        try:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            with os.fdopen(os.dup(self._stdout), "w", encoding=encoding, errors="backslashreplace") as stream:
                _print(_console(stream), *what)
        except BrokenPipeError:
            pass
        except OSError as error:
            self._failures.append(f"stdout cannot be written: {error.strerror}")

    def file(self, path: Path | None, build: Callable[[], str]) -> None:
        """Write a file; "-" means stdout, None nothing. Errors are reported by `finish`."""
        if path is None:
            return
        text = build()
        try:
            if str(path) == "-":
                self.machine(text)
            else:
                place(path).write(text.encode("utf-8"))
                self.wrote(str(path))
        except InputError as error:
            self._failures.append(str(error))

    def report(self, path: Path | None, build: Callable[[], Mapping[str, Any]]) -> None:
        """Write a JSON report to where `--json` says; see `file`."""
        from onnxprune.report.json_report import to_text

        self.file(path, lambda: to_text(build()))

    def machine(self, text: str) -> None:
        """Write machine-readable text to the real stdout.

        Raises:
            InputError: stdout is closed, full, or nobody reads it.
        """
        try:
            with os.fdopen(os.dup(self._stdout), "w", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise InputError(f"stdout cannot be written: {error.strerror}") from None

    def wrote(self, files: str, size_bytes: int = 0) -> None:
        """Note that files were written, for the last lines that a command shows.

        Args:
            files: their names, in words.
            size_bytes: their size, where it is to be told.
        """
        from onnxprune.report.text import size

        self._written.append(files + (f" ({size(size_bytes)})" if size_bytes else ""))

    def finish(self) -> None:
        """Name the files that were written, and report those that could not be.

        Raises:
            InputError: something could not.
        """
        if self._written and not self.quiet:
            from rich.text import Text

            for number, name in enumerate(self._written):
                head = " " * 8 if number else "written "
                self.show(Text(f"{head}{visible(name, MESSAGE)}", style="bold", overflow="fold"))
        if self._failures:
            raise InputError("; ".join(self._failures))

    @contextlib.contextmanager
    def progress(self) -> Iterator["Progress"]:
        """Progress bars with the time left, one per stage; none where stderr is not a terminal."""
        if self.quiet or not self.console.is_terminal:
            from onnxprune.core.clock import no_progress

            yield no_progress
            return
        from onnxprune.report.progress import bars

        with bars(self.console) as shown:
            yield shown


class _Notes(logging.Handler):
    """Shows warnings from the log."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        self._terminal.show(Text(f"note: {visible(record.getMessage(), MESSAGE)}", style="yellow"))


def _print(console: "Console", *what: "RenderableType") -> None:
    """Print; without trailing blanks where nobody sees colours."""
    if console.is_terminal:
        console.print(*what)
        return
    with console.capture() as captured:
        console.print(*what)
    text = captured.get()
    console.file.write("\n".join(line.rstrip() for line in text.split("\n")))
    console.file.flush()


def _console(stream: TextIO | None = None) -> "Console":
    """A console on a stream, by default stderr, that prints control characters as visible text."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible_lines(segment.text), segment.style)

        def on_broken_pipe(self) -> None:
            self.quiet = True  # nobody listens any more; by default the process would end

    width = None if (stream or sys.stderr).isatty() or "COLUMNS" in os.environ else WIDTH
    return Plain(file=stream, stderr=True, width=width, highlight=False, soft_wrap=False)
