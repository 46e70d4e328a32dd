"""Prunes a model, to one budget or to several."""

from concurrent.futures import Executor
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.api.arguments import speaks_of_arguments, with_options
from onnxprune.api.messages import told_all
from onnxprune.api.result import PruneResult
from onnxprune.config import PreprocessConfig, PruneConfig, SweepConfig
from onnxprune.core.clock import Progress
from onnxprune.core.plan import PrunePlan
from onnxprune.pipeline import prune as one
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.prepare import DataSource, Source
from onnxprune.report.log import log_result
from onnxprune.report.progress import followed

if TYPE_CHECKING:
    from onnxprune.api.sweep_result import SweepResult


@speaks_of_arguments
def prune(
    model: Source,
    data: DataSource | None = None,
    *,
    evaluation: DataSource | None = None,
    confirm: DataSource | None = None,
    plan: PrunePlan | Path | str | None = None,
    config: PruneConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    executor: Executor | str | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> PruneResult:
    """Prune a model: remove the units that matter least, and repair the remaining weights.

    Args:
        model: a path, the bytes of a file, a protobuf or a loaded model; never changed.
        data: calibration inputs: a path, arrays, or a `Dataset`. Labels are not needed.
        evaluation: inputs (with labels, for accuracy) that the metrics are measured on; absent, the calibration rows.
        confirm: with `max_drop`, other inputs like those of `evaluation`, which have no part in the choice: the metrics
            on them are `confirmed`.
        plan: units to remove, instead of scoring and deciding: a plan, or the file of one.
        config: options; `options` override single fields, for example `targets=0.5`.
        preprocess: how integer images become the model's input.
        executor: where independent tasks run, or `config.executor` in its place.
        progress: told of steps; True draws bars, None does so in notebooks and at the prompt.
        **options: fields of `PruneConfig`. `targets` may be a share of the multiply-adds (`0.5`), a text
            (`"macs=50%"`), several of them, or a mapping (`{"macs": 0.5, "bytes": "2MB"}`); `keep` may be one text, and
            `shapes` a mapping.

    Returns:
        The pruned model and everything that was found out.

    Raises:
        AccuracyError: the result loses more than `max_drop` points.
        OnnxPruneError: see `onnxprune.core.errors`.

    Example:
        ```python
        result = onnxprune.prune("model.onnx", "rows.npz", evaluation="test.npz", targets="macs=0.5")
        print(result.verdict)
        result.save("half.onnx")
        ```
    """
    if isinstance(executor, str):
        options, executor = {**options, "executor": executor}, None
    with followed(progress) as told:
        outcome = one.prune(
            model,
            data,
            with_options(config, options),
            preprocess or PreprocessConfig(),
            evaluation=evaluation,
            confirm=confirm,
            plan=PrunePlan.read(plan) if isinstance(plan, Path | str) else plan,
            executor=executor,
            progress=told,
        )
    outcome = _told(outcome)
    log_result(outcome.warnings, outcome.notes)
    return PruneResult.of(outcome)


@speaks_of_arguments
def sweep(
    model: Source,
    data: DataSource | None = None,
    *,
    evaluation: DataSource | None = None,
    points: SweepConfig | None = None,
    config: PruneConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    executor: Executor | None = None,
    progress: Progress | bool | None = None,
) -> "SweepResult":
    """Prune a model to several budgets, with a single scoring pass.

    Args:
        model: a path, the bytes of a file, a protobuf or a loaded model; never changed.
        data: calibration inputs; see `prune`.
        evaluation: inputs (with labels, for accuracy) that the metrics are measured on; absent, the calibration rows.
        points: the budgets.
        config: options; targets and thresholds in it do not count.
        preprocess: how integer images become the model's input.
        executor: where independent tasks run; by default where `config.executor` says.
        progress: told of steps; True draws bars, None does so in notebooks and at the prompt.

    Raises:
        BudgetError: not one of the budgets can be met.
        InputError: a value of `points` or `config` is not allowed.
        OnnxPruneError: see `onnxprune.core.errors`.

    Example:
        ```python
        points = onnxprune.SweepConfig(points=4, highest=0.9, lowest=0.3)
        swept = onnxprune.sweep("model.onnx", "rows.npz", evaluation="test.npz", points=points)
        print(swept.summary())
        ```
    """
    from onnxprune.api.sweep_result import SweepResult
    from onnxprune.pipeline import sweep as many
    from onnxprune.report.sweep_report import sweep_warnings

    points, config = points or SweepConfig(), with_options(config, {})
    with followed(progress) as told:
        swept = many.sweep(
            model,
            data,
            points,
            config,
            preprocess or PreprocessConfig(),
            evaluation=evaluation,
            executor=executor,
            progress=told,
        )
    points_held = tuple(
        many.SweepPoint(**{**_fields(point), "result": PruneResult.of(_told(point.result))}) for point in swept.points
    )
    result = SweepResult(**{**_fields(swept), "points": points_held})
    log_result(sweep_warnings(result), ())
    return result


def _told(outcome: PruneOutcome) -> PruneOutcome:
    """The outcome with notes and warnings in the words of whoever is told."""
    return replace(outcome, notes=told_all(outcome.notes), warnings=told_all(outcome.warnings))


def _fields(data: Any) -> dict[str, Any]:
    return {field.name: getattr(data, field.name) for field in fields(data)}
