"""The command `onnxprune inspect`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import KeepConfig, OutputConfig, SizesConfig
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class InspectFiles:
    """Where the report goes."""

    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")


@command(
    Section("Files", InspectFiles, "inspect"),
    Section("Kept", KeepConfig),
    Section("Sizes", SizesConfig),
    Section("Outputs", OutputConfig, "outputs", omit=("metric",)),
)
def inspect(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", metavar="MODEL.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Show what can be pruned, what cannot and why, and what each layer costs."""
    files = given.get(InspectFiles)
    outputs = Outputs({"--json": files.json}, [model, given.file])

    from onnxprune.allocation.keep import kept_by
    from onnxprune.graph.load import load
    from onnxprune.graph.sizes import parse_shapes
    from onnxprune.report.inspection import inspection
    from onnxprune.report.json_report import inspect_report
    from onnxprune.report.kept import keep_summary
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import inspect_summary
    from onnxprune.structure.coupling import analyze

    shapes = parse_shapes(given.get(SizesConfig).shapes)
    loaded = load(model)
    outputs.guard([loaded])
    analysis = analyze(loaded, shapes)
    kept = [kept_by(analysis, pattern) for pattern in given.get(KeepConfig).keep]
    inspected = inspection(analysis, given.get(OutputConfig), shapes)
    terminal.show(inspect_summary(inspected))
    if kept:
        terminal.show(keep_summary(kept))
    terminal.report(files.json, lambda: inspect_report(inspected, provenance(sys.argv[1:], model=model)))
