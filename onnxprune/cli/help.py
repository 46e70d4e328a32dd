"""The help of a command: its options under headings, the same at any width and in pipes.

Plain text on purpose: the boxes that typer draws take as long as all the rest of `prune --help`, and they cut their
text on narrow terminals.
"""

from typing import Any

import typer

from onnxprune.cli.given import GivenCommand


class HeadedCommand(GivenCommand):
    """A command whose help lists each option under the heading (`rich_help_panel`) that it was declared with."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, in the order in which their headings come first."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                headings.setdefault(getattr(parameter, "rich_help_panel", None) or plain, []).append(record)
        for heading, records in headings.items():
            with formatter.section(typer.style(heading, bold=True)):
                formatter.write_dl(records)
