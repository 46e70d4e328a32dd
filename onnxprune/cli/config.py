"""The command `onnxprune config`."""

from dataclasses import dataclass

from onnxprune.cli.command import command, known_sections
from onnxprune.cli.config_file import template
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class ConfigActions:
    """What to do."""

    template: bool = option(False, "Print the file, as without this option, which older commands give.")


@command(Section("Actions", ConfigActions, in_file=False))
def config(_given: Options, terminal: Terminal) -> None:
    """Print a commented configuration file, to be filled in and given to --config."""
    terminal.machine(template(known_sections()))
