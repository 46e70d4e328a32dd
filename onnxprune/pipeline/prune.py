"""Prunes one model, from loading to the final result."""

from concurrent.futures import Executor

from onnxprune.allocation.decide import Decision, without_loss
from onnxprune.allocation.plan import make_plan, plan_mask
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.scale import check_same_scale
from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.errors import InputError
from onnxprune.core.plan import PrunePlan
from onnxprune.core.results import ProgramReport
from onnxprune.evaluation.user_metric import check_metric
from onnxprune.graph.sizes import parse_shapes
from onnxprune.pipeline.decide import allowed_widths, decide
from onnxprune.pipeline.finish import finish
from onnxprune.pipeline.floor import check_floor, check_floor_rows, check_time, smallest
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.pipeline.prepare import DataSource, Source, prepare, rows_to_report, score
from onnxprune.pipeline.shrink import shrink


def prune(
    model: Source,
    data: DataSource | None,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    *,
    evaluation: DataSource | None = None,
    plan: PrunePlan | None = None,
    executor: Executor | None = None,
    progress: Progress = no_progress,
) -> PruneOutcome:
    """Prune a model: run all stages. Arguments and errors as in `api.prune`."""
    _check_options(config, plan)
    clock = Clock(progress)
    prepared = prepare(model, data, config, preprocess, clock)
    if config.distill:
        from onnxprune.torchnet.network import Network

        Network(prepared.model)  # says before any work what cannot be trained
    if evaluation is None:
        prepared, measured_on = rows_to_report(prepared)
    else:
        with clock.stage("load"):
            measured_on = load_data(evaluation, prepared.model, preprocess)
            check_same_scale(prepared.data, measured_on)
    if config.max_drop is not None:
        check_floor_rows(prepared.data, measured_on if evaluation is not None else None, config)
    scores, smaller = None, None
    if config.lossless:
        widths = allowed_widths(prepared, config, progress)
        decision = without_loss(prepared.analysis, prepared.lossless.removed, widths)
        plan = make_plan(prepared.analysis, decision.removed, "lossless", None, decision.rule)
    elif plan is None:
        with clock.stage("score"):
            scores = score(prepared, config, executor, progress)
        if config.is_searched:
            assert measured_on is not None  # checked above
            decision, smaller = smallest(prepared, scores, measured_on, config, clock, progress, executor)
        else:
            decision = decide(prepared, scores, config, clock, progress, executor)
        plan = make_plan(prepared.analysis, decision.removed, config.importance, scores, decision.rule)
    else:
        given = {"--target": config.targets, "--threshold": config.threshold, "--keep": config.keep}
        unused = [name for name, value in (given | {"--no-branches": not config.branches}).items() if value]
        notes = (f"the plan says which units go: {', '.join(unused)} had no effect",) if unused else ()
        decision = Decision(plan_mask(prepared.analysis, plan), ProgramReport("none"), {}, 0.0, notes=notes)
    if smaller is None:
        smaller = shrink(prepared, decision.removed, config, clock, progress)
    result = finish(prepared, smaller, decision, plan, scores, measured_on, config, clock)
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
