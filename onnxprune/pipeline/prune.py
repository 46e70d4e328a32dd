"""Prunes one model, from loading to the final result."""

from concurrent.futures import Executor
from dataclasses import replace

from onnxprune.allocation.decide import Decision, without_loss
from onnxprune.allocation.plan import make_plan, plan_mask
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.scale import check_same_scale
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.errors import InputError
from onnxprune.core.execution import workers_kept
from onnxprune.core.plan import PrunePlan
from onnxprune.core.results import ProgramReport
from onnxprune.evaluation.user_metric import check_metric
from onnxprune.graph.sizes import parse_shapes
from onnxprune.outputs.reading import read_meaning
from onnxprune.pipeline.decide import allowed_widths, decide
from onnxprune.pipeline.finish import finish
from onnxprune.pipeline.floor import check_confirming_rows, check_floor, check_floor_rows, check_time, smallest
from onnxprune.pipeline.measured import Measured, rows_to_measure
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.prepare import DataSource, Prepared, Source, prepare, score
from onnxprune.pipeline.shrink import shrink


def prune(
    model: Source,
    data: DataSource | None,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    *,
    evaluation: DataSource | None = None,
    confirm: DataSource | None = None,
    plan: PrunePlan | None = None,
    executor: Executor | None = None,
    progress: Progress = no_progress,
) -> PruneOutcome:
    """Prune a model: run all stages. Arguments and errors as in `api.prune`."""
    _check_options(config, plan)
    if confirm is not None and config.max_drop is None:
        raise InputError("--confirm measures again what --max-drop chose: give --max-drop, or leave it out")
    clock = Clock(progress)
    prepared = prepare(model, data, config, preprocess, clock, reports=evaluation is None)
    config = replace(config, outputs=prepared.outputs)
    if config.distill:
        from onnxprune.torchnet.network import Network

        compared = read_meaning(prepared.analysis, config.outputs).outputs
        Network(prepared.model, compared)  # says before any work what cannot be trained
    rows = _rows_to_measure(prepared, evaluation, confirm, config, preprocess, clock, planned=plan is not None)
    scores, smaller = None, None
    if config.lossless:
        widths = allowed_widths(prepared, config, progress)
        decision = without_loss(prepared.analysis, prepared.lossless.removed, widths)
        plan = make_plan(prepared.analysis, decision.removed, "lossless", None, decision.rule)
    elif plan is None:
        with workers_kept():
            with clock.stage("score"):
                scores = score(prepared, config, executor, progress)
            if config.is_searched:
                assert rows.on is not None  # checked above
                decision, smaller = smallest(prepared, scores, rows.on, config, clock, progress, executor)
            else:
                decision = decide(prepared, scores, config, clock, progress, executor)
        plan = make_plan(prepared.analysis, decision.removed, config.importance, scores, decision.rule)
    else:
        decision = _as_planned(prepared, plan, config)
    if smaller is None:
        smaller = shrink(prepared, decision.removed, config, clock, progress)
    result = finish(prepared, smaller, decision, plan, scores, rows, config, clock)
    if config.max_drop is not None:
        advice = "raise the target or --max-drop, or give more calibration rows"
        check_floor(result.source, result.metrics, config.max_drop, advice)
    if config.fail_if_slower:
        check_time(result.source, result.time)
    return result


def _check_options(config: PruneConfig, plan: PrunePlan | None) -> None:
    """Check that options go together, before any work."""
    if config.lossless and (plan is not None or config.targets or config.threshold is not None or config.distill):
        raise InputError(
            "--lossless removes only what can go without loss, and trains nothing; leave out --target, --threshold, "
            "--plan and --distill"
        )
    if config.minimise != PruneConfig().minimise and (plan is not None or config.lossless or not config.is_searched):
        raise InputError(
            f"--minimise {config.minimise} says what is made as small as --max-drop allows: give --max-drop, and leave "
            "out --target, --threshold, --plan and --lossless"
        )
    if config.fail_if_slower and not config.time:
        raise InputError("--fail-if-slower needs the time: leave out --no-time")
    check_metric(config.outputs)
    parse_shapes(config.shapes)


def _rows_to_measure(
    prepared: Prepared,
    evaluation: DataSource | None,
    confirm: DataSource | None,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    clock: Clock,
    *,
    planned: bool,
) -> Measured:
    """The rows that figures are of."""
    sets: list[Dataset | None] = []
    with clock.stage("load"):
        for given in (evaluation, confirm):
            sets.append(None if given is None else load_data(given, prepared.model, preprocess))
            if sets[-1] is not None:
                check_same_scale(prepared.data, sets[-1])
    judges, confirming = sets
    if config.max_drop is not None:
        check_floor_rows(prepared.data, judges, config)
        check_confirming_rows(confirming, prepared.data, judges)
    return rows_to_measure(prepared, judges, config, confirming, planned=planned)


def _as_planned(prepared: Prepared, plan: PrunePlan, config: PruneConfig) -> Decision:
    """What a plan says, with a note on options that had no effect."""
    given = {"--target": config.targets, "--threshold": config.threshold, "--keep": config.keep}
    unused = [name for name, value in (given | {"--no-branches": not config.branches}).items() if value]
    notes = (f"the plan says which units go: {', '.join(unused)} had no effect",) if unused else ()
    return Decision(plan_mask(prepared.analysis, plan), ProgramReport("none"), {}, 0.0, notes=notes)
