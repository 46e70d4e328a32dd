"""The command `onnxprune validate`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import (
    MOST_THREADS,
    LatencyConfig,
    OutputConfig,
    PreprocessConfig,
    ProviderConfig,
    SizesConfig,
)
from onnxprune.core.errors import InputError
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class ValidateFiles:
    """What `validate` reads and writes."""

    data: str | None = option(
        None, "Inputs, with labels for accuracy; forms as in prune --data.", metavar="DATA", shared="eval"
    )
    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")


@dataclass(frozen=True, slots=True)
class ValidateConfig:
    """How `validate` compares."""

    max_drop: float | None = option(
        None,
        "Fail with exit code 5 where the metric falls by more than P points.",
        metavar="P",
        minimum=0,
        shared="max-drop",
    )
    images: int | None = option(None, "Rows used at most [default: all].", minimum=1)
    seed: int = option(0, "Seed of the choice of rows.", minimum=0, shared="seed")
    time: bool = option(True, "Measure the other model's time beside the original's in onnxruntime.")
    threads: int = option(
        0,
        "Threads for onnxruntime, but where time is measured; 0 takes all cores.",
        minimum=0,
        maximum=MOST_THREADS,
        shared="threads",
    )


@command(
    Section("Files", ValidateFiles, "validate"),
    Section("Comparison", ValidateConfig, "validate"),
    Section("Time", LatencyConfig, "latency", omit=("cache",)),
    Section("Provider", ProviderConfig),
    Section("Outputs", OutputConfig, "outputs"),
    Section("Sizes", SizesConfig),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def validate(
    model: Annotated[Path, typer.Argument(help="The original.", metavar="MODEL.onnx")],
    other: Annotated[Path, typer.Argument(help="The model compared with it.", metavar="OTHER.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Compare a model with its original on data: accuracy where there are labels, what its outputs keep, costs."""
    files, config = given.get(ValidateFiles), given.get(ValidateConfig)
    outputs = Outputs({"--json": files.json}, [model, other, files.data, given.file])
    if files.data is None:
        raise InputError("give the rows to compare on: --data EVAL")

    from onnxprune.api import compare
    from onnxprune.graph.load import load
    from onnxprune.graph.sizes import parse_shapes
    from onnxprune.pipeline.floor import check_floor
    from onnxprune.report.json_report import validate_report
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import validate_summary

    shapes = parse_shapes(given.get(SizesConfig).shapes)
    original, changed = load(model), load(other)
    outputs.guard([original, changed], [files.data])
    with terminal.progress() as progress:
        comparison = compare.validate(
            original,
            changed,
            files.data,
            outputs=given.get(OutputConfig),
            preprocess=given.get(PreprocessConfig),
            images=config.images,
            seed=config.seed,
            shapes=shapes,
            threads=config.threads,
            provider=given.get(ProviderConfig).provider,
            time=config.time,
            latency=given.get(LatencyConfig),
            progress=progress,
        )
    terminal.answer(files.json, validate_summary(comparison))
    origin = provenance(sys.argv[1:], model=model, other=other, data=files.data)
    terminal.report(files.json, lambda: validate_report(comparison, origin))
    if config.max_drop is not None:
        check_floor(str(other), comparison.metrics, config.max_drop)
