"""The command `onnxprune score`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.options import option

NOT_FOR_SCORES = (
    *("targets", "max_drop", "minimise", "allow_overlap", "threshold", "lossless", "round_to", "kernels", "latency"),
    *("repair", "distill", "flip", "shift", "time", "fail_if_slower", "branches"),
)


@dataclass(frozen=True, slots=True)
class ScoreFiles:
    """What `score` reads and writes."""

    data: str | None = option(None, "Calibration inputs; forms as in prune --data.", metavar="DATA")
    json: Path | None = option(None, "Write all scores here; - is stdout.", metavar="FILE|-")


@command(
    Section("Files", ScoreFiles),
    Section("Scoring", PruneConfig, omit=NOT_FOR_SCORES),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def score(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", metavar="MODEL.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Score every channel without removing any."""
    files, config = given.get(ScoreFiles), given.get(PruneConfig)
    outputs = Outputs({"--json": files.json}, [model, files.data, given.file])

    from onnxprune.core.clock import Clock
    from onnxprune.core.text import several
    from onnxprune.graph.load import load
    from onnxprune.outputs.not_by_row import not_by_row
    from onnxprune.pipeline.prepare import prepare
    from onnxprune.pipeline.prepare import score as score_groups
    from onnxprune.report.json_report import score_report
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import score_summary
    from onnxprune.runtime.providers import ran_on

    loaded = load(model)
    outputs.guard([loaded], [files.data])
    with terminal.progress() as progress:
        clock = Clock(progress)
        prepared = prepare(loaded, files.data, config, given.get(PreprocessConfig), clock)
        config = replace(config, outputs=prepared.outputs)
        with clock.stage("score"):
            scores = score_groups(prepared, config, progress=progress)
    notes = [*ran_on(config.engine.provider), *(() if prepared.data is None else prepared.data.notes)]
    if prepared.lossless.found:
        notes.append(f"{several(prepared.lossless.found, 'unit')} can go without loss: {prepared.lossless.kinds}")
    warnings = (
        *not_by_row(prepared.analysis, config.outputs),
        *(() if prepared.data is None else prepared.data.warnings),
    )
    scores = replace(scores, notes=(*notes, *scores.notes), warnings=warnings)
    terminal.answer(files.json, score_summary(scores, config.importance))
    origin = provenance(sys.argv[1:], model=model, data=files.data)
    terminal.report(files.json, lambda: score_report(str(model), scores, config, clock.seconds, origin))
