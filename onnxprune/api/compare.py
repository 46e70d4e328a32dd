"""Compares existing models: by their outputs on data, and by their speed."""

import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxprune.api.arguments import speaks_of_arguments
from onnxprune.api.comparison import Comparison
from onnxprune.api.messages import told_all
from onnxprune.calibration.independence import without_batch
from onnxprune.calibration.inputs import is_made_up, load_data
from onnxprune.calibration.runner import first_feed
from onnxprune.config import LatencyConfig, OutputConfig, PreprocessConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.core.engine import Engine, Provider
from onnxprune.core.errors import InputError
from onnxprune.evaluation.metrics import compare
from onnxprune.evaluation.warnings import heavy_losses, slow_result
from onnxprune.graph.load import load
from onnxprune.graph.sizes import Given, fitting, given_sizes, input_sizes, rows_a_run
from onnxprune.outputs.not_by_row import not_by_row
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.settling import told_by_rows
from onnxprune.outputs.unseen import one_answer
from onnxprune.pipeline.prepare import DataSource, Source
from onnxprune.report.log import log_result
from onnxprune.report.progress import followed
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.providers import ran_on, require_provider
from onnxprune.runtime.room import require_room, require_room_of
from onnxprune.runtime.timing import MOST_S, Latency, time_models, time_pair
from onnxprune.structure.costs import count_costs
from onnxprune.structure.coupling import analyse


@speaks_of_arguments
def validate(
    original: Source,
    other: Source,
    data: DataSource,
    *,
    outputs: OutputConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    images: int | None = None,
    seed: int = 0,
    threads: int = 0,
    provider: str = "cpu",
    time: bool = True,
    latency: LatencyConfig | None = None,
    shapes: Given = (),
    progress: Progress | bool | None = None,
) -> Comparison:
    """Compare a model with its original on data.

    Args:
        original: a path, the bytes of a file, a protobuf or a loaded model.
        other: the model to compare with it, with the same inputs and outputs.
        data: rows, with labels where accuracy is wanted; see `prune`.
        outputs: what outputs mean, and a measure of the user's own.
        preprocess: how integer images become the models' input.
        images: rows used at most; all by default.
        seed: seed of the choice of rows.
        threads: threads of onnxruntime for the metrics; 0 takes all cores.
        provider: execution provider of onnxruntime, with its options, for example "openvino:device_type=CPU".
        time: whether to measure how long a run of both takes.
        latency: rows a run and threads for that; by default one of each.
        shapes: sizes that the files leave open, by input name.
        progress: told of steps; True draws bars, None does so in notebooks and at the prompt.

    Raises:
        InputError: a file cannot be read, the data do not fit, the models' outputs do not correspond, or the installed
            onnxruntime does not have the provider.
        ModelError: a model cannot be run.

    Example:
        ```python
        found = onnxprune.validate("model.onnx", "smaller.onnx", "test.npz")
        for name, change in found.metrics.items():
            print(name, change.before, change.after)
        ```
    """
    engine, latency = Engine(threads, Provider.parse(provider)), latency or LatencyConfig()
    require_provider(engine.provider)
    first, second = load(original), load(other)
    known = given_sizes(first, shapes)
    with fitting(shapes):
        rows = load_data(data, first, preprocess or PreprocessConfig(), limit=images, seed=seed, known=known)
        first, second = (without_batch(model, rows) for model in (first, second))
        known = given_sizes(first, shapes, rows.shapes)
        analysed = analyse(first, known)
    batch = rows_a_run(first, known, latency.batch) if time else 1
    require_room_of(first, analysed.graph, analysed.facts, batch)
    measured = None
    with followed(progress) as told:
        clock = Clock(told)
        with clock.stage("compare"):
            outputs, notes = told_by_rows(outputs or OutputConfig(), analysed, rows, engine)
            metrics = compare(first, second, rows, config=outputs, analysis=analysed, engine=engine)
            same = one_answer(first, read_meaning(analysed, outputs), rows, engine)
        if time:
            feeds = (first_feed(first, rows, batch), first_feed(second, rows, batch))
            with clock.stage("time"):
                measured = time_pair(
                    first,
                    second,
                    engine=Engine(latency.threads, engine.provider),
                    seconds=min(MOST_S, clock.seconds["compare"]),
                    feeds=feeds,
                )
    of_rows = (*not_by_row(analysed, outputs), *rows.warnings, *same)
    warnings = told_all((*slow_result(measured), *of_rows, *heavy_losses(metrics)))
    log_result(warnings, ())
    return Comparison(
        original=first.name,
        other=second.name,
        before=count_costs(first, analysed),
        after=count_costs(second, input_shapes=known),
        metrics=metrics,
        time=measured,
        warnings=warnings,
        rows=len(rows),
        source=rows.source,
        notes=told_all((*rows.notes, *notes, *analysed.incomplete, *ran_on(engine.provider))),
        sizes=input_sizes(first, analysed.facts.shapes, shapes, None if is_made_up(rows.source) else rows.shapes),
    )


@speaks_of_arguments
def bench(
    models: Source | Sequence[Source],
    data: DataSource | None = None,
    *,
    preprocess: PreprocessConfig | None = None,
    batch: int = 1,
    threads: int = 0,
    provider: str = "cpu",
    seconds: float = 5.0,
    warmup: int = 3,
    rounds: int = 10,
    memory: bool = True,
    seed: int = 0,
    shapes: Given = (),
    progress: Progress | bool | None = None,
) -> tuple[Latency, ...]:
    """Measure the latency of models in onnxruntime, run in turn so that they see the same conditions.

    Args:
        models: a model, or several: paths, bytes of files, protobufs or loaded models; the others are compared with the
            first.
        data: rows to run on; random ones by default.
        preprocess: how integer images become the models' input.
        batch: rows a run; a model with a fixed batch runs at its own.
        threads: threads of onnxruntime; 0 takes all cores.
        provider: execution provider of onnxruntime, with its options, for example "openvino:device_type=CPU".
        seconds: time to spend on measured rounds, for all models together.
        warmup: rounds that are not counted.
        rounds: measured rounds at least, whatever the time.
        memory: whether to measure peak memory too, each model in a process of its own.
        seed: seed of random rows.
        shapes: sizes that the files leave open, by input name; a batch among them is that of the runs.
        progress: told of steps; True draws bars, None does so in notebooks and at the prompt.

    Raises:
        InputError: a file cannot be read, data or sizes do not fit, or the installed onnxruntime does not have the
            provider.
        ModelError: a model cannot be run.

    Example:
        ```python
        for measured in onnxprune.bench(["model.onnx", "smaller.onnx"], batch=8, seconds=0.5):
            print(measured.model, measured.median_ms, "ms")
        ```
    """
    engine = Engine(threads, Provider.parse(provider))
    require_provider(engine.provider)
    several = isinstance(models, Sequence) and not isinstance(models, str | bytes | bytearray | memoryview)
    given = typing.cast("Sequence[Source]", models if several else (models,))
    loaded = [load(model) for model in given]
    if not loaded:
        raise InputError("models: give at least one model")
    if isinstance(data, str | Path) and Path(data).suffix == ".onnx":
        raise InputError(f"data: {data} is a model, not rows; several models are one list: bench([first, second])")
    known = [given_sizes(model, shapes) for model in loaded]
    with fitting(shapes):
        batch = rows_a_run(loaded[0], known[0], batch)
        if data is not None:
            rows = load_data(data, loaded[0], preprocess or PreprocessConfig(), limit=batch, seed=seed, known=known[0])
            loaded = [without_batch(model, rows) for model in loaded]
            known = [given_sizes(model, shapes, rows.shapes) for model in loaded]
        for model, own in zip(loaded, known, strict=True):
            require_room(model, own, batch)
        if data is not None:
            feeds = [first_feed(model, rows, batch) for model in loaded]
        else:
            feeds = [random_feed(model, batch, seed, own) for model, own in zip(loaded, known, strict=True)]
    chosen = [{name: array.shape for name, array in feed.items()} for feed in feeds]
    with followed(progress) as told:
        told("measure", 0, 0)
        measured = time_models(
            loaded,
            batch=batch,
            engine=engine,
            seconds=seconds,
            warmup=warmup,
            rounds=rounds,
            memory=memory,
            feeds=feeds,
        )
    return tuple(
        replace(entry, sizes=input_sizes(model, shapes_of_feed, shapes, None if data is None else rows.shapes))
        for entry, model, shapes_of_feed in zip(measured, loaded, chosen, strict=True)
    )
