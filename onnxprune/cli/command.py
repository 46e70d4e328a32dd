"""Shared by all commands: options from dataclasses, `--config`, exit codes and one-line errors."""

import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from onnxprune.api.messages import for_commands
from onnxprune.cli import config_file
from onnxprune.cli.commands import commands
from onnxprune.cli.given import as_paths
from onnxprune.cli.options import Option, Section, build, options
from onnxprune.cli.terminal import Terminal
from onnxprune.core.clock import StageMemoryError
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.options import option
from onnxprune.core.plugins import import_plugin
from onnxprune.core.text import MESSAGE, visible, visible_lines

INTERRUPTED = 130
INTERNAL = 1


@dataclass(frozen=True, slots=True)
class Showing:
    """What is shown while a command runs."""

    quiet: bool = option(False, "Show nothing but errors.", short="-q")
    verbose: bool = option(False, "Show details, solver logs and the traceback of internal errors.", short="-v")


@dataclass(frozen=True, slots=True)
class Plugins:
    """Modules that add operators and scorers."""

    plugin: tuple[str, ...] = option(
        (),
        "Import this module first, which registers operators or scorers; may be given several times.",
        metavar="MODULE",
    )


SHOWING = Section("Display", Showing)
PLUGINS = Section("Extensions", Plugins)


def known_sections() -> tuple[Section, ...]:
    """The option sections of all commands, each once."""
    return tuple(dict.fromkeys(section for item in commands().values() for section in item.sections))


@dataclass(frozen=True, slots=True)
class Command:
    """A command before it becomes a typer function.

    `function` takes the command's own arguments, then its options and the terminal.
    """

    function: Callable[..., None]
    sections: tuple[Section, ...]


def command(*sections: Section) -> Callable[[Callable[..., None]], Command]:
    """Decorator that makes `function(*arguments, given: Options, terminal: Terminal)` a command with options."""

    def mark(function: Callable[..., None]) -> Command:
        return Command(function, (*sections, PLUGINS, SHOWING))

    return mark


def typer_function(item: Command) -> Callable[..., None]:
    """The function that typer takes arguments and options from."""
    arguments = list(inspect.signature(item.function).parameters.values())[:-2]
    declared = {o.parameter: _declaration(o) for section in item.sections for o in options(section)}

    def run(**values: Any) -> None:
        config = values.pop("config_file")
        config = None if config is None else Path(config)
        positional = [as_paths(values.pop(argument.name)) for argument in arguments]
        verbose = bool(values.get("verbose"))
        sys.excepthook = _Hook(verbose)
        try:
            file = config_file.read(config, known_sections()) if config else {}
            for module in build((PLUGINS,), values, file, f"--config {config}").get(Plugins).plugin:
                import_plugin(module)
            given = replace(build(item.sections, values, file, f"--config {config}"), file=config)
            showing = given.get(Showing)
            with for_commands(), Terminal(quiet=showing.quiet, verbose=showing.verbose) as terminal:
                item.function(*positional, given, terminal)
                terminal.finish()
        except OnnxPruneError as error:
            if verbose:
                _print(visible_lines(traceback.format_exc()))
            complain(f"{one_line(error)}")
            raise typer.Exit(error.exit_code) from None
        except MemoryError as error:
            if verbose:
                _print(visible_lines(traceback.format_exc()))
            complain(f"out of memory{_amount(error)}; try fewer calibration rows (--images), or a bound (--memory)")
            raise typer.Exit(OnnxPruneError.exit_code) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None

    config_option = typer.Option(
        "--config", metavar="FILE.toml", help="Read options from this file.", rich_help_panel=SHOWING.title
    )
    declared["config_file"] = Annotated[Path | None, config_option]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [argument.replace(kind=keyword) for argument in arguments]
    parameters += [
        inspect.Parameter(name, keyword, default=None, annotation=annotation) for name, annotation in declared.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__, run.__name__ = item.function.__doc__, item.function.__name__
    return run


def _declaration(item: Option) -> Any:
    """A typer option. None means that it was not given, so that the TOML file is asked."""
    metadata = item.field.metadata
    names = [item.flag, *([metadata["short"]] if "short" in metadata else [])]
    if item.is_switch and item.field.default is True:
        names = [f"{item.flag}/--no-{item.flag[2:]}"]
    text = item.help
    if item.default_text and "[default" not in text:
        text += f" [default: {item.default_text}]"
    kind: Any = bool | None if item.is_switch else list[str] | None if item.is_repeatable else str | None
    choices = item.choices
    settings = typer.Option(
        *names,
        help=text,
        metavar=None if item.is_switch else item.metavar,
        show_default=False,
        rich_help_panel=item.title,
        autocompletion=(lambda: list(choices)) if choices else None,
    )
    return Annotated[kind, settings]


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _amount(error: MemoryError) -> str:
    """What asked for how much, as far as the error tells."""
    told = f": {one_line(error)}" if str(error) else ""
    return f" in {error.stage}{told}" if isinstance(error, StageMemoryError) else told


def command_began() -> bool:
    """Whether a command has started running (and not just the help or version)."""
    return isinstance(sys.excepthook, _Hook)


def complain(text: str) -> None:
    """Print an error to stderr, in one line."""
    _say(f"error: {text}")


def _say(text: str) -> None:
    _print(f"onnxprune: {visible(text, MESSAGE)}\n")


def _print(text: str) -> None:
    with suppress(OSError):  # nobody listens
        sys.stderr.write(text)
        sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class _Hook:
    """An `excepthook` for unexpected errors: one line, and the traceback with `--verbose`."""

    verbose: bool

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if self.verbose:
            _print(visible_lines("".join(traceback.format_exception(kind, error, trace))))
        more = "" if self.verbose else "; --verbose shows where"
        _say(f"internal error: {kind.__name__}: {one_line(error)} (please report it{more})")
