"""The command `onnxprune config`."""

from dataclasses import dataclass

from onnxprune.cli.command import command, known_sections
from onnxprune.cli.config_file import template
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.core.errors import InputError
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class ConfigActions:
    """What to do."""

    template: bool = option(False, "Print a commented TOML file with every option and its default.")


@command(Section("Actions", ConfigActions, in_file=False))
def config(given: Options, terminal: Terminal) -> None:
    """Print a commented configuration file, to be filled in and given to --config."""
    if not given.get(ConfigActions).template:
        raise InputError("nothing to do; give --template")
    terminal.machine(template(known_sections()))
