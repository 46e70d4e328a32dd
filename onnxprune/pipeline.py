"""The order of the stages: load, analyse, score, allocate, try, remove, repair, distil, evaluate; known here only."""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.allocation.costs import budgets
from onnxprune.allocation.decide import Decision, by_budget, by_threshold, is_kept, without_loss, without_match
from onnxprune.allocation.plan import make_plan, plan_mask
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.store import give_back_freed
from onnxprune.clock import Clock
from onnxprune.config import FinetuneConfig, PreprocessConfig, PruneConfig, with_options
from onnxprune.errors import InputError
from onnxprune.evaluation.latency import make_feed
from onnxprune.execution import TaskExecutor, open_executor
from onnxprune.graph.analysis import analyse, require_understood
from onnxprune.graph.check import RemovalCheck
from onnxprune.graph.cost import measure
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.remove import remove
from onnxprune.graph.space import Ids, PruneSpace
from onnxprune.graph.view import GraphView, view
from onnxprune.importance import WITHOUT_DATA, scorer
from onnxprune.importance.base import Progress, ScoreContext, Scores, no_progress
from onnxprune.lossless import Lossless, lossless
from onnxprune.outcome import group_results, layer_costs, versions
from onnxprune.report.text import several
from onnxprune.result import Costs, MetricChange, ProgramReport, PrunePlan, PruneResult

Source = Path | str | onnx.ModelProto | Model
DataSource = Any
"""What `calibration.inputs.load_data` takes: a path or other specification, arrays, or a `Dataset`."""

DEFAULT_OAMIP_THRESHOLD = "0.1"
# Multiply-adds of the calibration rows above which starting worker processes pays.
_LARGE = 2e11


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is ready to be scored.

    Attributes:
        model: the original.
        view: its graph.
        space: its analysis.
        data: calibration rows, or None.
        before: the original's costs.
        exact: the units that can go without loss, but for kept groups.
    """

    model: Model
    view: GraphView
    space: PruneSpace
    data: Dataset | None
    before: Costs
    exact: Lossless


def prepare(
    source: Source,
    data: DataSource | None,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    clock: Clock | None = None,
) -> Prepared:
    """Load a model and its calibration data, analyse it, and find what can go without loss.

    Raises:
        InputError: a file cannot be read, or the data do not fit.
        ModelError: the model cannot be processed.
    """
    clock = clock or Clock()
    if config.memory is not None:
        give_back_freed()
    with clock.stage("load"):
        model = load(source)
        graph = view(model)
        rows = None
        if data is not None:
            rows = load_data(data, model, graph, preprocess, limit=config.images, seed=config.seed)
    with clock.stage("analyse"):
        space = analyse(model, graph, None if rows is None else rows.shapes)
        if config.strict:
            require_understood(space)
        before = measure(model, space)
    with clock.stage("lossless"):
        free = space.none_removed()
        for group in space.groups:
            free[group.units] = not is_kept(group, config.keep)
        return Prepared(model, graph, space, rows, before, lossless(model, graph, space, free))


def score(
    prepared: Prepared, config: PruneConfig, executor: Executor | None = None, progress: Progress = no_progress
) -> Scores:
    """Score every group with the scorer that `config.importance` names. What can go without loss comes first.

    Args:
        prepared: the model and its data.
        config: options.
        executor: where independent tasks run; by default where `config.executor` says.
        progress: told of steps.

    Raises:
        InputError: the scorer needs calibration data and there is none.
    """
    if prepared.data is None and config.importance not in WITHOUT_DATA:
        raise InputError(
            f"--importance {config.importance} needs calibration inputs: give --data (or --importance magnitude)"
        )
    function = scorer(config.importance)
    work = prepared.before.macs * (0 if prepared.data is None else len(prepared.data))
    large = work > _LARGE and config.memory is None  # the bound is on all memory, several processes share nothing
    with nullcontext(executor) if executor else open_executor(config.executor, config.workers, large=large) as chosen:
        tasks, exact = TaskExecutor(chosen), prepared.exact
        scores = function(
            ScoreContext(
                exact.model, prepared.view, prepared.space, prepared.data, config, tasks, progress, exact.removed
            )
        )
    return scores.with_free(prepared.space, exact.removed) if exact.found else scores


def decide(
    prepared: Prepared,
    scores: Scores,
    config: PruneConfig,
    clock: Clock,
    progress: Progress,
    executor: Executor | None = None,
) -> Decision:
    """Choose the units that go, by targets or by threshold; between powers of the damage curves, by trial.

    Raises:
        InputError: neither is given.
        BudgetError: the budgets cannot be met.
        SolverError: the solver failed.
    """
    with clock.stage("allocate"):
        solve = _solver(prepared, config, progress)
        found = solve(scores)
    from onnxprune.trial import best, worthwhile

    by_program_alone = config.threshold is None and found.latency is None
    if not (scores.powers and by_program_alone and worthwhile(prepared, config)):
        return found
    with clock.stage("trials"):
        others = [solve(scores.raised(power)) for power in scores.powers]
        return best(prepared, [found, *others], config, progress, executor)


def _solver(prepared: Prepared, config: PruneConfig, progress: Progress) -> Callable[[Scores], Decision]:
    """How the options say that scores become a decision."""
    threshold = config.threshold
    if threshold is None and not config.targets and config.importance == "oamip":
        threshold = DEFAULT_OAMIP_THRESHOLD
    if config.targets and threshold is not None:
        raise InputError("give either --target or --threshold, not both")
    if not config.targets and threshold is None:
        raise InputError("say how small the model must get, for example --target macs=0.5 (or --max-drop, --threshold)")
    latency = [target for target in config.targets if target.kind == "latency"]
    exact = budgets(prepared.space, [t for t in config.targets if t.kind != "latency"], prepared.before)
    if latency:
        from onnxprune.latency.target import by_latency, timed

        whole = timed(prepared.model, prepared.view, prepared.space, config, progress)
        return lambda scores: by_latency(whole, scores, latency, exact, config)
    allowed = _fast_widths(prepared, config, progress)
    if threshold is not None:
        return lambda scores: by_threshold(prepared.space, scores, threshold, config, allowed=allowed)
    return lambda scores: by_budget(prepared.space, scores, exact, config, allowed=allowed)


def _fast_widths(prepared: Prepared, config: PruneConfig, progress: Progress) -> Mapping[int, np.ndarray] | None:
    """The widths that `--round-to auto` allows, by group; None where another option is in force."""
    if config.round_to != "auto":
        return None
    from onnxprune.latency.target import timed

    return timed(prepared.model, prepared.view, prepared.space, config, progress).fast_widths(config)


def exactly(prepared: Prepared, removed: Ids, clock: Clock) -> Lossless:
    """What of the removed units goes without loss, and the model to remove all of them from."""
    if not (prepared.exact.removed & ~removed).any():
        return prepared.exact
    with clock.stage("lossless"):
        return lossless(prepared.model, prepared.view, prepared.space, removed)


def shrink(prepared: Prepared, removed: Ids, config: PruneConfig, clock: Clock, progress: Progress) -> Model:
    """Remove units, repair what remains, and train it towards the original's outputs where asked for."""
    exact = exactly(prepared, removed, clock)
    with clock.stage("remove"):
        smaller = remove(exact.model, prepared.view, prepared.space, removed)
    if config.lossless:
        return smaller
    data, held_out = prepared.data, None
    if config.distill and data is not None:
        from onnxprune.repair.finetune import finetune, split

        training = FinetuneConfig(
            epochs=config.distill, flip=config.flip, shift=config.shift, seed=config.seed, threads=config.threads
        )
        # Repair makes the rows that it fits look better than others: they cannot say when training helps.
        data, held_out = split(data, None, training)
    if config.repair and data is not None and removed.any():
        from onnxprune.repair import repair

        with clock.stage("repair"):
            smaller = repair(prepared.model, smaller, prepared.space, removed, data, config, progress)
    if held_out is not None and data is not None:
        with clock.stage("distill"):
            smaller = finetune(
                smaller, data, teacher=prepared.model, config=training, validation=held_out, progress=progress
            ).model
    return smaller


def prune(
    model: Source,
    data: DataSource | None = None,
    *,
    evaluation: DataSource | None = None,
    plan: PrunePlan | None = None,
    config: PruneConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    executor: Executor | str | None = None,
    progress: Progress = no_progress,
    **options: Any,
) -> PruneResult:
    """Make a model smaller.

    Args:
        model: a path, a protobuf or a loaded model; never changed.
        data: calibration inputs: a path, arrays, or a `Dataset`. Labels are not needed.
        evaluation: inputs (with labels, for accuracy) that the metrics are measured on; absent, the calibration rows.
        plan: units to remove, instead of scoring and deciding.
        config: options; `options` override single fields, for example `targets="macs=0.5"`.
        preprocess: how integer images become the model's input.
        executor: where independent tasks run, or `config.executor` in its place.
        progress: told of steps.
        **options: fields of `PruneConfig`; `targets` and `keep` may be text.

    Returns:
        The pruned model and everything that was found out.

    Raises:
        AccuracyError: the result loses more than `max_drop` points.
        OnnxPruneError: see `onnxprune.errors`.
    """
    from onnxprune.floor import check_floor, check_floor_rows, smallest

    if isinstance(executor, str):
        options, executor = {**options, "executor": executor}, None
    config = with_options(config or PruneConfig(), options)
    if config.lossless and (plan is not None or config.targets or config.threshold is not None or config.distill):
        raise InputError(
            "--lossless removes only what can go without loss, and trains nothing; leave out --target, --threshold, "
            "--plan and --distill"
        )
    clock = Clock(progress)
    prepared = prepare(model, data, config, preprocess or PreprocessConfig(), clock)
    if config.distill:
        from onnxprune.repair.finetune.network import Network

        Network(prepared.model)  # says before any work what cannot be trained
    measured_on = prepared.data
    if evaluation is not None:
        with clock.stage("load"):
            measured_on = load_data(evaluation, prepared.model, prepared.view, preprocess or PreprocessConfig())
    if config.max_drop is not None:
        check_floor_rows(prepared.data, measured_on if evaluation is not None else None, config)
    scores, smaller = None, None
    if config.lossless:
        allowed = _fast_widths(prepared, config, progress)
        decision = without_loss(prepared.space, prepared.exact.removed, config, allowed=allowed)
        plan = make_plan(prepared.space, decision.removed, "lossless", None)
    elif plan is None:
        with clock.stage("score"):
            scores = score(prepared, config, executor, progress)
        if config.max_drop is not None and not config.targets and config.threshold is None:
            assert measured_on is not None  # checked above
            decision, smaller = smallest(prepared, scores, measured_on, config, clock, progress, executor)
        else:
            decision = decide(prepared, scores, config, clock, progress, executor)
        plan = make_plan(prepared.space, decision.removed, config.importance, scores)
    else:
        unused = config.targets or config.threshold is not None
        notes = ("the plan says which units go: neither --target nor --threshold was used",) if unused else ()
        decision = Decision(plan_mask(prepared.space, plan), ProgramReport("none"), {}, 0.0, notes=notes)
    if smaller is None:
        smaller = shrink(prepared, decision.removed, config, clock, progress)
    result = finish(prepared, smaller, decision, plan, scores, measured_on, config, clock)
    if config.max_drop is not None:
        check_floor(result.source, result.metrics, config.max_drop)
    return result


def finish(
    prepared: Prepared,
    smaller: Model,
    decision: Decision,
    plan: PrunePlan,
    scores: Scores | None,
    measured_on: Dataset | None,
    config: PruneConfig,
    clock: Clock,
) -> PruneResult:
    """Measure the result and put everything together."""
    exact = exactly(prepared, decision.removed, clock)
    shapes = prepared.space.facts.shapes
    metrics: Mapping[str, MetricChange] = {}
    if measured_on is not None:
        from onnxprune.evaluation.metrics import compare

        with clock.stage("evaluate"):
            metrics = compare(prepared.model, smaller, measured_on, threads=config.threads)
    latency = decision.latency
    if latency is not None:
        from onnxprune.latency.target import confirmed

        with clock.stage("time"):
            latency = confirmed(latency, prepared.model, smaller)
    return PruneResult(
        model=smaller,
        plan=plan,
        source=prepared.model.name,
        before=prepared.before,
        after=measure(smaller, input_shapes={name: shapes[name] for name in prepared.view.inputs if name in shapes}),
        metrics=metrics,
        groups=group_results(prepared.space, decision.removed, scores),
        layers=layer_costs(prepared.space, decision.removed),
        not_pruned=prepared.space.not_pruned,
        program=decision.program if scores is None or scores.program is None else scores.program,
        timings=dict(clock.seconds),
        seed=config.seed,
        versions=versions(),
        settings=dataclasses.asdict(config),
        oamip=None if scores is None else scores.oamip,
        latency=latency,
        check=_check(prepared, exact, decision.removed, config),
        notes=(
            *decision.notes,
            *_notes(prepared, exact, measured_on, config),
            *(() if scores is None else scores.notes),
        ),
    )


def _check(prepared: Prepared, exact: Lossless, removed: Ids, config: PruneConfig) -> RemovalCheck:
    """What the written file must pass, on the first calibration row (or random inputs)."""
    fitted = prepared.data is not None and not config.lossless
    return RemovalCheck(
        model=exact.model,
        graph=prepared.view,
        space=prepared.space,
        removed=removed,
        changed=fitted and (config.repair or config.distill > 0),
        feed=None if prepared.data is None else make_feed(prepared.model, data=prepared.data),
        original=prepared.model if exact.found else None,
    )


def _notes(prepared: Prepared, exact: Lossless, measured_on: Dataset | None, config: PruneConfig) -> tuple[str, ...]:
    notes = [note for data in (prepared.data, measured_on) if data is not None for note in data.notes]
    for pattern in without_match(prepared.space, config.keep):
        notes.append(f"--keep {pattern!r} matches no group that can be pruned; `onnxprune inspect` lists their names")
    if exact.found:
        notes.append(f"{several(exact.found, 'unit')} went without loss: {exact.kinds}")
    if measured_on is not None and measured_on is prepared.data:
        notes.append("metrics were measured on the calibration rows; give --eval for an honest figure")
    return tuple(dict.fromkeys(notes))
