"""The command `onnxprune ops`."""

from dataclasses import astuple, dataclass, fields

from onnxprune.cli.command import command
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class OpsFormat:
    """How the table is written."""

    markdown: bool = option(False, "Write a Markdown table, with what is done with each.")


@command(Section("Format", OpsFormat, in_file=False))
def ops(given: Options, terminal: Terminal) -> None:
    """List the operators that channels can be followed through; all others keep theirs."""
    from onnxprune.ops import handlers
    from onnxprune.ops.abilities import Abilities, abilities

    rows: dict[tuple[str, ...], list[str]] = {}
    for op_type, handler in sorted(handlers().items()):
        if handler.follows:
            family = type(handler).__module__.rpartition(".")[2]
            rows.setdefault((family, *astuple(abilities(handler))), []).append(op_type)
    if given.get(OpsFormat).markdown:
        titles = ("family", "operators", *(field.name for field in fields(Abilities)))
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        lines += [f"| {' | '.join((key[0], ', '.join(rows[key]), *key[1:]))} |" for key in sorted(rows)]
    else:
        width = max(len(family) for family, *_ in rows)
        lines = [f"{key[0]:{width}}  {', '.join(rows[key])}" for key in sorted(rows)]
    terminal.machine("\n".join(lines) + "\n")
