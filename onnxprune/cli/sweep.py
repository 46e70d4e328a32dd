"""The command `onnxprune sweep`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs, names_of
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import PreprocessConfig, PruneConfig, SweepConfig
from onnxprune.core.errors import InputError
from onnxprune.core.options import option
from onnxprune.core.targets import Target

NOT_FOR_SWEEPS = ("targets", "max_drop", "minimise", "allow_overlap", "threshold", "lossless", "time", "fail_if_slower")


@dataclass(frozen=True, slots=True)
class SweepFiles:
    """What `sweep` reads and writes."""

    output: Path | None = option(
        None,
        "Folder for sweep.html, sweep.json and the models; made where it is missing.",
        short="-o",
        flag="--out",
        metavar="DIR",
    )
    data: str | None = option(None, "Calibration inputs; forms as in prune --data.", metavar="DATA", shared="data")
    eval: str | None = option(None, "Inputs with labels, to measure the points on.", metavar="DATA", shared="eval")
    save_models: bool = option(False, "Write every point's model into the folder.")
    json: Path | None = option(None, "Write the machine report here too; - is stdout.", metavar="FILE|-")
    provenance: bool = option(
        True, "Say in the models' metadata how they were made: version, options and hashes, no paths or names of users."
    )


@command(
    Section("Files", SweepFiles, "sweep"),
    Section("Points", SweepConfig, "sweep"),
    Section("Pruning", PruneConfig, omit=NOT_FOR_SWEEPS),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def sweep(
    model: Annotated[Path, typer.Argument(help="The .onnx file; never changed.", metavar="MODEL.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Prune a model to several budgets, and show which of the results are worth having."""
    files, points = given.get(SweepFiles), given.get(SweepConfig)
    if files.save_models and files.output is None:
        raise InputError("--save-models needs a folder: -o DIR")
    if files.output is not None:
        _make_folder(files.output)

    from onnxprune.api import prune as library
    from onnxprune.graph.load import load
    from onnxprune.pipeline.sweep import budgets_of
    from onnxprune.report.provenance import provenance
    from onnxprune.report.sweep_report import sweep_page, sweep_report, sweep_summary

    kept = {target: _model(files, model, target) for target in budgets_of(points)} if files.save_models else {}
    pages = () if files.output is None else (files.output / "sweep.html", files.output / "sweep.json")
    outputs = Outputs(
        {"--json": files.json, **{f"-o ({path.name})": path for path in (*pages, *kept.values())}},
        (model, files.data, files.eval, given.file),
        models=[f"-o ({path.name})" for path in kept.values()],
    )
    loaded = load(model)
    outputs.guard([loaded], [files.data, files.eval])
    with terminal.progress() as progress:
        swept = library.sweep(
            loaded,
            files.data,
            evaluation=files.eval,
            points=points,
            config=given.get(PruneConfig),
            preprocess=given.get(PreprocessConfig),
            progress=progress,
        )
    origin = provenance(sys.argv[1:], model=model, data=files.data, eval=files.eval)
    names = [str(kept[point.target]) if kept else None for point in swept.points]
    for point in swept.points if kept else ():
        place = kept[point.target]
        written = point.result.save(place, outputs.protected(place), provenance=files.provenance)
        terminal.wrote(names_of(place, written), sum(path.stat().st_size for path in written))
    if pages:
        terminal.file(pages[0], lambda: sweep_page(swept, origin))
        terminal.report(pages[1], lambda: sweep_report(swept, names, origin))
    terminal.report(files.json, lambda: sweep_report(swept, names, origin))
    terminal.show(sweep_summary(swept))


def _model(files: SweepFiles, model: Path, target: Target) -> Path:
    """Path of the model file for one budget."""
    assert files.output is not None  # checked before
    return files.output / f"{model.stem}-{target.kind}-{target.value:g}.onnx"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o {folder} cannot be made: {error.strerror}") from None
