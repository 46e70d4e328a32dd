"""The command `onnxprune inspect`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import KeepConfig, OutputConfig, PreprocessConfig, SizesConfig
from onnxprune.core.options import option

if TYPE_CHECKING:
    from onnxprune.calibration.dataset import Dataset
    from onnxprune.graph.model import Model
    from onnxprune.graph.operators import OpenShapes


@dataclass(frozen=True, slots=True)
class InspectFiles:
    """What `inspect` reads besides the model, and where the report goes."""

    data: str | None = option(
        None, "Inputs: their sizes are taken, and what no row reads is told; forms as in prune --data.", metavar="DATA"
    )
    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")


@command(
    Section("Files", InspectFiles, "inspect"),
    Section("Kept", KeepConfig),
    Section("Sizes", SizesConfig),
    Section("Outputs", OutputConfig, "outputs", omit=("metric",)),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def inspect(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", metavar="MODEL.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Show what can be pruned, what cannot and why, and what each layer costs."""
    files = given.get(InspectFiles)
    outputs = Outputs({"--json": files.json}, [model, files.data, given.file])

    from onnxprune.allocation.keep import kept_by
    from onnxprune.calibration.independence import without_batch
    from onnxprune.calibration.tables import unread_notes
    from onnxprune.core.engine import ALL_CORES
    from onnxprune.graph.load import load
    from onnxprune.graph.sizes import fitting, given_sizes, parse_shapes
    from onnxprune.outputs.settling import told_by_rows
    from onnxprune.report.inspection import inspection
    from onnxprune.report.json_report import inspect_report
    from onnxprune.report.kept import keep_summary
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import inspect_summary
    from onnxprune.structure.coupling import analyse

    shapes = parse_shapes(given.get(SizesConfig).shapes)
    loaded = load(model)
    outputs.guard([loaded], [files.data])
    with fitting(shapes):
        rows = _rows(files.data, loaded, given, shapes)
        loaded = loaded if rows is None else without_batch(loaded, rows)
        known = given_sizes(loaded, shapes, None if rows is None else rows.shapes)
        analysis = analyse(loaded, known)
    notes = [] if rows is None else [*rows.notes, *unread_notes(analysis, rows, ALL_CORES, analysis.costs().params)]
    kept = [kept_by(analysis, pattern) for pattern in given.get(KeepConfig).keep]
    sizes = None if rows is None else rows.shapes
    warnings = () if rows is None else rows.warnings
    said = given.get(OutputConfig)
    if rows is not None:
        said, told = told_by_rows(said, analysis, rows, ALL_CORES)
        notes += told
    inspected = inspection(analysis, said, shapes, sizes, notes, warnings)
    terminal.answer(files.json, inspect_summary(inspected))
    if kept:
        terminal.answer(files.json, keep_summary(kept))
    origin = provenance(sys.argv[1:], model=model, data=files.data)
    terminal.report(files.json, lambda: inspect_report(inspected, origin))


def _rows(data: str | None, model: "Model", given: Options, shapes: "OpenShapes") -> "Dataset | None":
    """The rows that the user names, at most as many as `prune` takes."""
    if data is None:
        return None
    from onnxprune.calibration.inputs import load_data
    from onnxprune.graph.sizes import given_sizes
    from onnxprune.pipeline.prepare import most_rows

    known = given_sizes(model, shapes)
    return load_data(data, model, given.get(PreprocessConfig), limit=most_rows(data), known=known)
