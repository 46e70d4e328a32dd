"""The command `onnxprune bench`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.command import command
from onnxprune.cli.files import Outputs
from onnxprune.cli.options import Options, Section
from onnxprune.cli.terminal import Terminal
from onnxprune.config import MOST_THREADS, LatencyConfig, PreprocessConfig, ProviderConfig, SizesConfig
from onnxprune.core.options import option


@dataclass(frozen=True, slots=True)
class BenchFiles:
    """What `bench` reads and writes."""

    data: str | None = option(None, "Rows to run on [default: random ones]; forms as in prune --data.", metavar="DATA")
    json: Path | None = option(None, "Write the machine report here; - is stdout.", metavar="FILE|-")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """How `bench` measures."""

    batch_: int | None = option(None, "The same as --latency-batch.", minimum=1)
    threads_: int | None = option(None, "The same as --latency-threads.", minimum=0, maximum=MOST_THREADS)
    seconds: float = option(5.0, "Time to measure, for all models together.", minimum=0)
    warmup: int = option(3, "Rounds that are not counted.", minimum=0)
    rounds: int = option(10, "Measured rounds at least, whatever the time.", minimum=1)
    memory: bool = option(True, "Measure peak memory, each model in a process of its own.")
    seed: int = option(0, "Seed of random rows.", minimum=0, shared="seed")


@command(
    Section("Files", BenchFiles, "bench"),
    Section("Measurement", BenchConfig, "bench"),
    Section("Time", LatencyConfig, "latency", omit=("cache",)),
    Section("Provider", ProviderConfig),
    Section("Sizes", SizesConfig),
    Section("Image input", PreprocessConfig, "preprocess"),
)
def bench(
    models: Annotated[
        list[Path], typer.Argument(help="Models; the others are compared with the first.", metavar="MODEL.onnx...")
    ],
    given: Options,
    terminal: Terminal,
) -> None:
    """Measure how long models take in onnxruntime, side by side, with their memory and file size."""
    files, config, latency = given.get(BenchFiles), given.get(BenchConfig), given.get(LatencyConfig)
    outputs = Outputs({"--json": files.json}, [*models, files.data, given.file])

    from onnxprune.api import compare
    from onnxprune.graph.load import load
    from onnxprune.graph.sizes import parse_shapes
    from onnxprune.report.json_report import bench_report
    from onnxprune.report.provenance import provenance
    from onnxprune.report.terminal import bench_summary

    shapes = parse_shapes(given.get(SizesConfig).shapes)
    loaded = [load(model) for model in models]
    outputs.guard(loaded, [files.data])
    with terminal.progress() as progress:
        measured = compare.bench(
            loaded,
            files.data,
            preprocess=given.get(PreprocessConfig),
            batch=latency.batch if config.batch_ is None else config.batch_,
            threads=latency.threads if config.threads_ is None else config.threads_,
            provider=given.get(ProviderConfig).provider,
            seconds=config.seconds,
            warmup=config.warmup,
            rounds=config.rounds,
            memory=config.memory,
            seed=config.seed,
            shapes=shapes,
            progress=progress,
        )
    terminal.answer(files.json, bench_summary(measured))
    origin = provenance(sys.argv[1:], **{f"model {n}": model for n, model in enumerate(models, 1)}, data=files.data)
    terminal.report(files.json, lambda: bench_report(measured, origin))
