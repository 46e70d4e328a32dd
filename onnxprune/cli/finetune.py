"""The command `onnxprune finetune`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs, names_of
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import FinetuneConfig, OutputConfig, PreprocessConfig, ProviderConfig
from onnxprune.core.errors import InputError
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class FinetuneFiles:
    """What `finetune` reads and writes."""

    output: Path | None = option(None, "The trained model.", short="-o", flag="--out", metavar="OUT.onnx")
    data: str | None = option(None, "Training rows; labels are needed without --teacher.", metavar="DATA")
    teacher: Path | None = option(
        None, "Train towards this model's outputs, for example the original's; needs no labels.", metavar="MODEL.onnx"
    )
    validation: str | None = option(None, "Rows that choose the best epoch, instead of --holdout.", metavar="DATA")
    checkpoint: Path | None = option(None, "State after every epoch; where it exists, training goes on from it.")
    images: int | None = option(None, "Training rows used at most [default: all].", minimum=1)
    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")


@command(
    Section("Files", FinetuneFiles, "finetune"),
    Section("Training", FinetuneConfig, "finetune"),
    Section("Provider", ProviderConfig),
    Section("Outputs", OutputConfig, "outputs", omit=("metric",)),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def finetune(
    model: Annotated[Path, typer.Argument(help="The model to train; never changed.", metavar="MODEL.onnx")],
    given: Options,
    terminal: Terminal,
) -> None:
    """Train a pruned model's weights, with labels or towards the original's outputs (needs torch)."""
    files, config = given.get(FinetuneFiles), given.get(FinetuneConfig)
    if files.data is None:
        raise InputError("give the training rows: --data DATA")
    outputs = Outputs(
        {"-o": files.output, "--checkpoint": files.checkpoint, "--json": files.json},
        (model, files.data, files.teacher, files.validation, given.file),
        models=["-o"],
    )

    from onnxprune.api import finetune as library
    from onnxprune.graph.load import load
    from onnxprune.report.json_report import finetune_report
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import epoch_line, finetune_summary

    loaded, output = load(model), Path(files.output or "")
    teacher = None if files.teacher is None else load(files.teacher)
    outputs.guard([loaded] if teacher is None else [loaded, teacher], [files.data, files.validation])
    with terminal.progress() as progress:
        trained = library.finetune(
            loaded,
            files.data,
            teacher=teacher,
            validation=files.validation,
            config=config,
            outputs=given.get(OutputConfig),
            preprocess=given.get(PreprocessConfig),
            images=files.images,
            checkpoint=files.checkpoint,
            provider=given.get(ProviderConfig).provider,
            progress=progress,
            on_epoch=lambda epoch: terminal.show(epoch_line(epoch)),
        )
        written = trained.save(output, outputs.protected(output))
    terminal.wrote(names_of(output, written))
    terminal.show(finetune_summary(trained))
    origin = provenance(
        sys.argv[1:],
        model=model,
        output=output,
        data=files.data,
        teacher=files.teacher,
        validation=files.validation,
    )
    terminal.report(files.json, lambda: finetune_report(str(model), trained, config, origin))
