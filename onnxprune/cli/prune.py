"""The command `onnxprune prune`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs, names_of
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.options import option
from onnxprune.core.plan import PrunePlan


@dataclass(frozen=True, slots=True)
class PruneFiles:
    """What `prune` reads and writes."""

    output: Path | None = option(None, "The smaller model.", short="-o", flag="--out", metavar="OUT.onnx")
    data: str | None = option(
        None,
        "Calibration inputs: .npz, .npy, a folder of either or of images, an ONNX test_data_set folder, "
        "module:function, random or synthetic.",
        metavar="DATA",
    )
    eval: str | None = option(
        None, "Inputs with labels that the metrics are measured on; forms as --data.", metavar="DATA"
    )
    confirm: str | None = option(
        None, "With --max-drop: other inputs that confirm what was chosen on --eval; forms as --data.", metavar="DATA"
    )
    plan: Path | None = option(None, "Remove what this plan says, instead of scoring and deciding.")
    plan_out: Path | None = option(None, "Write which units go, as a plan for --plan.")
    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")
    html: Path | None = option(None, "Write a report to look at: one self-contained page.")
    provenance: bool = option(
        True, "Say in the model's metadata how it was made: version, options and hashes, no paths or names of users."
    )


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
    outputs = _outputs(files, model, given.file)
    plan = None if files.plan is None else PrunePlan.read(files.plan)

    from onnxprune.graph.load import load

    loaded, output = load(model), Path(files.output or "")
    outputs.guard([loaded], [files.data, files.eval, files.confirm])

    from onnxprune.api import prune as library

    with terminal.progress() as progress:
        result = library.prune(
            loaded,
            files.data,
            evaluation=files.eval,
            confirm=files.confirm,
            plan=plan,
            config=config,
            preprocess=given.get(PreprocessConfig),
            progress=progress,
        )
        written = result.save(output, outputs.protected(output), provenance=files.provenance)

    terminal.wrote(names_of(output, written), sum(path.stat().st_size for path in written))
    if files.plan_out is not None:
        terminal.file(files.plan_out, lambda: result.plan.to_json() + "\n")
    if files.json is not None or files.html is not None:
        from onnxprune.report.json_report import prune_report
        from onnxprune.report.provenance import provenance

        rows = {"data": files.data, "eval": files.eval, "confirm": files.confirm}
        origin = provenance(sys.argv[1:], model=model, output=output, **rows, plan=files.plan)
        terminal.report(files.json, lambda: prune_report(result, origin))
        if files.html is not None:
            from onnxprune.report.html_report import html_report

            terminal.file(files.html, lambda: html_report(result, origin))
    if not terminal.quiet:
        from onnxprune.report.terminal import prune_summary

        terminal.show(prune_summary(result))


def _outputs(files: PruneFiles, model: Path, config: Path | None) -> Outputs:
    """The files to write, after checking that all of them can be written."""
    paths = {"-o": files.output, "--plan-out": files.plan_out, "--json": files.json, "--html": files.html}
    return Outputs(paths, (model, files.data, files.eval, files.confirm, files.plan, config), models=["-o"])
