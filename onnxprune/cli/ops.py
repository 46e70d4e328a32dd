"""The command `onnxprune ops`."""

from dataclasses import dataclass

from onnxprune.cli.command import command
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class OpsFormat:
    """How the table is written."""

    markdown: bool = option(False, "Write a Markdown table.")


@command(Section("Format", OpsFormat, in_file=False))
def ops(given: Options, terminal: Terminal) -> None:
    """List the operators that channels can be followed through; all others keep theirs."""
    from onnxprune.ops import handlers

    families: dict[str, list[str]] = {}
    for op_type, handler in handlers().items():
        if handler.follows:
            families.setdefault(type(handler).__module__.rpartition(".")[2], []).append(op_type)
    rows = [(family, sorted(families[family])) for family in sorted(families)]
    if given.get(OpsFormat).markdown:
        lines = ["| family | operators |", "|---|---|"]
        lines += [f"| {family} | {', '.join(operators)} |" for family, operators in rows]
    else:
        width = max(len(family) for family, _ in rows)
        lines = [f"{family:{width}}  {', '.join(operators)}" for family, operators in rows]
    terminal.machine("\n".join(lines) + "\n")
