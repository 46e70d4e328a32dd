"""`onnxprune prune`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import check_distinct, check_model_output, check_output, read_plan, write_text
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import PreprocessConfig, PruneConfig, option


@dataclass(frozen=True, slots=True)
class PruneFiles:
    """What `prune` reads and writes."""

    output: Path | None = option(None, "The smaller model.", short="-o", metavar="OUT.onnx")
    data: str | None = option(
        None,
        "Calibration inputs: .npz, .npy, a folder of either or of images, an ONNX test_data_set folder, "
        "module:function, or random.",
        metavar="DATA",
    )
    eval: str | None = option(
        None, "Inputs with labels that the metrics are measured on; forms as --data.", metavar="DATA"
    )
    plan: Path | None = option(None, "Remove what this plan says, instead of scoring and deciding.")
    plan_out: Path | None = option(None, "Write which units go, as a plan for --plan.")
    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")
    html: Path | None = option(None, "Write a report to look at: one self-contained page.")


@command(
    Section("Files", PruneFiles),
    Section("Pruning", PruneConfig),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def prune(
    model: Annotated[Path, typer.Argument(help="The .onnx file; never changed.", metavar="MODEL.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Make a model smaller: find the channels that matter, remove the others, repair what remains, check it."""
    files, config = given.get(PruneFiles), given.get(PruneConfig)
    output = _output(files, model)

    from onnxprune.api import prune as library

    plan = None if files.plan is None else read_plan(files.plan)
    with terminal.progress() as progress:
        result = library.prune(
            model,
            files.data,
            evaluation=files.eval,
            plan=plan,
            config=config,
            preprocess=given.get(PreprocessConfig),
            progress=progress,
        )
        result.save(output)

    from onnxprune.graph.write import data_file
    from onnxprune.report.json_report import prune_report
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import prune_summary

    if files.plan_out is not None:
        write_text(files.plan_out, result.plan.to_json() + "\n")
    if files.json is not None or files.html is not None:
        origin = provenance(sys.argv[1:], model=model, output=output, data=files.data, eval=files.eval, plan=files.plan)
        terminal.report(files.json, lambda: prune_report(result, origin))
        if files.html is not None:
            from onnxprune.report.html_report import html_report

            write_text(files.html, html_report(result, origin))
    data = data_file(result.model, output)
    written = (output,) if data is None else (output, data)
    terminal.show(prune_summary(result, " and ".join(map(str, written)), sum(path.stat().st_size for path in written)))


def _output(files: PruneFiles, model: Path) -> Path:
    """The output's path, once it is sure that everything can be written."""
    inputs = (model, files.data, files.eval, files.plan)
    output = check_model_output(files.output, inputs)
    others = {"plan_out": files.plan_out, "json": files.json, "html": files.html}
    for name, path in others.items():
        check_output(path, inputs, "--" + name.replace("_", "-"))
    check_distinct(output=output, **others)
    return output
