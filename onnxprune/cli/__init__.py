"""The command line: one file for each command. Heavy imports happen only when a command runs."""

import gc
import os
import sys
from collections.abc import Sequence

import typer

from onnxprune.cli.command import command_began, complain, typer_function
from onnxprune.cli.commands import COMMANDS, commands
from onnxprune.cli.given import GivenGroup
from onnxprune.cli.help import HeadedCommand
from onnxprune.cli.terminal import discard_stdout, open_descriptors
from onnxprune.cli.usage import USAGE_ERROR, is_help, usage_message
from onnxprune.version import __version__

_WIDTH = 110  # columns that the help takes at most


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def application(arguments: Sequence[str] | None = None) -> typer.Typer:
    """The command-line application.

    Args:
        arguments: what it will be called with, where that is known: then it has only the command that they name, and
            no command has its options where they name none; these take time to make.
    """
    called = [name for name in COMMANDS if name in (arguments or ())[:1]]
    app = typer.Typer(
        name="onnxprune",
        cls=GivenGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH},
        help="Make trained ONNX models smaller and faster: channel pruning by mixed-integer programs, and repair.",
        epilog="Exit codes: 0 done; 2 wrong usage or unreadable input; 3 model cannot be processed; "
        "4 budget cannot be met; 5 accuracy floor missed; 6 solver failed; 7 not faster (--fail-if-slower).",
    )

    @app.callback()
    def common(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ) -> None:
        del version

    for name, item in commands(called or COMMANDS).items():
        if arguments is None or called:
            app.command(name, cls=HeadedCommand)(typer_function(item))
        else:
            app.command(name, short_help=item.function.__doc__)(_without_options)
    return app


def _without_options() -> None:
    """Stands for a command that is not called."""


def main() -> None:
    """Entry point of the `onnxprune` console script."""
    open_descriptors()
    # Large graphs are many objects that live to the end; looking at them less often saves a fifth of the time.
    gc.set_threshold(20_000, 20, 50)
    try:
        completing = "_ONNXPRUNE_COMPLETE" in os.environ
        run = application(None if completing else sys.argv[1:])
        status = run(prog_name="onnxprune", standalone_mode=False)
    except USAGE_ERROR as error:
        if is_help(error):
            error.show()  # type: ignore[attr-defined]
        else:
            complain(usage_message(error, sys.argv[1:]))
        raise SystemExit(2) from None
    except OSError as error:
        if command_began():
            raise
        discard_stdout()
        complain(f"stdout cannot be written: {error.strerror}")  # the help or the version
        raise SystemExit(2) from None
    raise SystemExit(status or 0)
