"""The last stage: measures the pruned model and collects everything to report."""

import dataclasses
from collections.abc import Mapping, Sequence

from onnxprune.allocation.decide import Decision
from onnxprune.allocation.keep import without_groups
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import first_feed
from onnxprune.calibration.tables import unread_notes
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.plan import PrunePlan
from onnxprune.core.results import LatencyReport, MetricChange, RemovedBlock, TimeReport
from onnxprune.core.scores import Scores
from onnxprune.core.text import metric_name, percent, several
from onnxprune.evaluation.warnings import heavy_losses, slow_result
from onnxprune.graph.model import Model
from onnxprune.graph.sizes import rows_a_run
from onnxprune.lossless import Lossless
from onnxprune.outputs.given import barely_counting
from onnxprune.outputs.not_by_row import not_by_row
from onnxprune.outputs.objectness import FOUND
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.unseen import little_found
from onnxprune.pipeline.floor import holds, main_loss
from onnxprune.pipeline.measured import Measured
from onnxprune.pipeline.outcome import PruneOutcome, group_results, layer_costs, removed_blocks, versions
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.shrink import lossless_part
from onnxprune.runtime.feeds import random_feed
from onnxprune.runtime.providers import ran_on
from onnxprune.structure.check import RemovalCheck
from onnxprune.structure.costs import count_costs
from onnxprune.structure.shared import tied
from onnxprune.structure.units import Ids

_TIMED = 0.05  # of the run's time
_TOLD_OVER = 0.02  # of a budget of time, from which on a result above it is said to be
_FEW_ROWS = 10  # calibration rows below which a note asks for more
_CHOSEN = (
    "--max-drop chose the model by the metric on the rows that the figures are of; confirm them on other rows "
    "(--confirm, or onnxprune validate)"
)


def finish(
    prepared: Prepared,
    smaller: Model,
    decision: Decision,
    plan: PrunePlan,
    scores: Scores | None,
    rows: Measured,
    config: PruneConfig,
    clock: Clock,
) -> PruneOutcome:
    """Measure the pruned model, and collect everything that the run found out."""
    exact = lossless_part(prepared, decision.removed, clock)
    metrics, confirmed_metrics = (_compared(prepared, smaller, some, config, clock) for some in rows.sets)
    time = _timed(prepared, smaller, config, clock, decision.latency) if config.time else None
    latency = _latency(prepared, smaller, decision.latency, time, clock)
    blocks = removed_blocks(prepared.analysis, decision.removed)
    same = config.lossless and not decision.removed.any()
    slow = () if same else _slow(time, config)
    return PruneOutcome(
        model=smaller,
        plan=plan,
        source=prepared.model.name,
        before=prepared.before,
        after=count_costs(smaller, input_shapes=prepared.shapes),
        metrics=metrics,
        time=time,
        warnings=(
            *(() if config.is_searched else _missed(latency)),
            *slow,
            *_of_rows(prepared, rows, config),
            *heavy_losses(metrics),
            *_not_confirmed(prepared, confirmed_metrics, config),
            *_unseen(prepared, config),
        ),
        groups=group_results(prepared.analysis, decision.removed, scores, decision.steps),
        layers=layer_costs(prepared.analysis, decision.removed),
        not_pruned=prepared.analysis.not_pruned,
        removed_blocks=blocks,
        program=decision.program if scores is None or scores.program is None else scores.program,
        timings=dict(clock.seconds),
        seed=config.seed,
        versions=versions(),
        settings=dataclasses.asdict(config),
        oamip=None if scores is None else scores.oamip,
        latency=latency,
        check=_check(prepared, exact, decision.removed, config),
        files=tuple({f: None for some in (prepared.data, *rows.sets) if some is not None for f in some.files}),
        original=prepared.model,
        sizes=prepared.sizes,
        confirmed=confirmed_metrics,
        rows=rows.use,
        notes=(
            *decision.notes,
            *_went(blocks, decided=scores is not None),
            *_notes(prepared, smaller, exact, rows, config),
            *((_CHOSEN,) if scores is not None and config.is_searched and not confirmed_metrics else ()),
            *(() if scores is None else scores.notes),
        ),
    )


def _slow(time: TimeReport | None, config: PruneConfig) -> tuple[str, ...]:
    return slow_result(time, lossless=config.lossless, rounded=config.round_to == PruneConfig().round_to)


def _compared(
    prepared: Prepared, smaller: Model, rows: Dataset | None, config: PruneConfig, clock: Clock
) -> Mapping[str, MetricChange]:
    """The metrics of both models on some rows; none without rows."""
    if rows is None:
        return {}
    from onnxprune.evaluation.metrics import compare

    with clock.stage("evaluate"):
        return compare(
            prepared.model, smaller, rows, config=config.outputs, analysis=prepared.analysis, engine=config.engine
        )


def _not_confirmed(prepared: Prepared, metrics: Mapping[str, MetricChange], config: PruneConfig) -> tuple[str, ...]:
    """A warning where rows that had no part in the choice say that the model loses more than it may."""
    if not metrics or config.max_drop is None:
        return ()
    metric, lost = main_loss(prepared.model.name, metrics)
    if holds(lost, config.max_drop):
        return ()
    return (
        f"not confirmed: on the rows of --confirm {metric_name(metric)} falls by {lost:.2f} points, where --max-drop "
        f"{config.max_drop:g} was allowed; give more rows to --eval, or a smaller --max-drop",
    )


def _latency(
    prepared: Prepared, smaller: Model, decided: LatencyReport | None, time: TimeReport | None, clock: Clock
) -> LatencyReport | None:
    """What was decided on, with the time of the final model: a run tells one time of it."""
    if decided is None:
        return None
    from onnxprune.latency.target import confirmed

    with clock.stage("time"):
        return confirmed(decided, prepared.model, smaller, prepared.shapes, time)


def retimed(outcome: PruneOutcome, before: float, measured: float) -> PruneOutcome:
    """A result of a budget of time, told with the times of another measurement: what is shown together must agree.

    Args:
        outcome: the result.
        before: time of the original in milliseconds.
        measured: time of the result.
    """
    latency = outcome.latency
    if latency is None:
        return outcome
    predicted = latency.predicted * before / latency.before
    told = dataclasses.replace(latency, before=before, predicted=predicted, measured=measured)
    others = [warning for warning in outcome.warnings if warning not in _missed(latency)]
    return dataclasses.replace(outcome, latency=told, warnings=(*_missed(told), *others))


def _missed(latency: LatencyReport | None) -> tuple[str, ...]:
    """A warning where the final model was measured to take more time than was asked for."""
    if latency is None or latency.ratio <= latency.asked * (1 + _TOLD_OVER):
        return ()
    return (
        f"the result takes {percent(latency.ratio)} of the original's time, more than the {percent(latency.asked)} "
        "asked for; it took less when it was chosen, so that times vary here: measure it on a quiet machine "
        "(onnxprune bench), or ask for less",
    )


def _timed(
    prepared: Prepared, smaller: Model, config: PruneConfig, clock: Clock, latency: LatencyReport | None
) -> TimeReport | None:
    """The result's time beside the original's, in a twentieth of the run's time; None where they cannot be run.

    Where the result was chosen by time, it is measured as long as it was then.
    """
    from onnxprune.runtime.timing import MOST_S, PAIR_S, time_pair

    least = 0.0 if latency is None else PAIR_S
    spent = sum(clock.seconds.values())
    batch, feeds = rows_a_run(prepared.model, prepared.shapes, config.latency.batch), None
    if prepared.data is not None:
        feeds = tuple(first_feed(model, prepared.data, batch) for model in (prepared.model, smaller))
    with clock.stage("time"):
        try:
            return time_pair(
                prepared.model,
                smaller,
                batch=batch,
                engine=config.timing_engine,
                seconds=max(least, min(MOST_S, _TIMED * spent)),
                feeds=None if feeds is None else (feeds[0], feeds[1]),
                known=prepared.shapes,
            )
        except (InputError, ModelError):
            if prepared.data is not None:
                raise
            return None  # the sizes of the random rows were only guessed


def _unseen(prepared: Prepared, config: PruneConfig) -> tuple[str, ...]:
    """A warning for each output that finds hardly anything on the rows that damage and weights are of."""
    data = prepared.data
    if data is None or config.lossless:
        return ()
    unseen = little_found(prepared.model, read_meaning(prepared.analysis, config.outputs), data, config.engine)
    rows = several(len(data), "calibration row")
    return tuple(
        f"output {name!r} finds nothing on {rows}: its highest score is {found.highest:.2g}, {FOUND} would be a find; "
        "what it would find was never seen: give rows with something to find"
        if not found.count
        else f"output {name!r} is sure (above {FOUND}) at {several(found.count, 'place')} only on {rows}: what it "
        "finds was hardly seen, and may be false; give rows with something to find"
        for name, found in unseen.items()
    )


def _of_rows(prepared: Prepared, rows: Measured, config: PruneConfig) -> tuple[str, ...]:
    """What makes figures say little: no rows, made-up ones, or such as the model has one answer for."""
    read = [data for data in (prepared.data, *rows.sets) if data is not None]
    told = [warning for data in read for warning in data.warnings]
    if rows.on is None and not config.lossless:
        unrepaired = ", and nothing was repaired" if prepared.data is None and config.repair else ""
        told.append(
            f"without data nothing was measured: nothing says what this costs in accuracy{unrepaired}; give --eval, or "
            "compare the result with the original by onnxprune validate"
        )
    return tuple(dict.fromkeys((*not_by_row(prepared.analysis, config.outputs), *told, *rows.warnings)))


def _went(blocks: Sequence[RemovedBlock], *, decided: bool) -> tuple[str, ...]:
    """What is said of branches that went as a whole; a run that followed a plan did not decide it."""
    if not blocks:
        return ()
    names = ", ".join(repr(block.group) for block in blocks)
    told = f"{several(len(blocks), 'block')} went as a whole, with all units of {names}"
    return (f"{told}; --no-branches keeps them" if decided else told,)


def _check(prepared: Prepared, exact: Lossless, removed: Ids, config: PruneConfig) -> RemovalCheck:
    """The check that the written file must pass, on the first calibration row or on random inputs."""
    fitted = prepared.data is not None and not config.lossless
    feed = None
    if prepared.data is not None:
        feed = first_feed(prepared.model, prepared.data)
    elif config.shapes:
        feed = random_feed(prepared.model, known=prepared.shapes)
    return RemovalCheck(
        analysis=exact.analysis,
        removed=removed,
        changed=fitted and (config.repair or config.distill > 0),
        feed=feed,
        original=prepared.model if exact.found else None,
        engine=config.engine,
    )


def _notes(prepared: Prepared, smaller: Model, exact: Lossless, rows: Measured, config: PruneConfig) -> tuple[str, ...]:
    notes = [*prepared.model.notes, *smaller.notes, *prepared.analysis.incomplete]
    notes += [note for data in (prepared.data, rows.on) if data is not None for note in data.notes]
    for pattern in without_groups(prepared.analysis, config.keep):
        notes.append(f"--keep {pattern!r} matches only what cannot be pruned anyway")
    notes += ran_on(config.engine.provider)
    if exact.found:
        notes.append(f"{several(exact.found, 'unit')} went without loss: {exact.kinds}")
    if prepared.data is not None:
        if not config.lossless:
            notes += barely_counting(read_meaning(prepared.analysis, config.outputs), config.outputs)
        notes += unread_notes(prepared.analysis, prepared.data, config.engine, prepared.before.params)
        decoded = sum(layer.weight in prepared.analysis.facts.transparent for layer in prepared.analysis.layers)
        if decoded and config.repair and not config.lossless:
            notes.append(
                f"repair left the weights of {several(decoded, 'layer')} as they are: the file stores them encoded; "
                "a model that is pruned first and encoded afterwards keeps more"
            )
        others = len(tied(prepared.analysis))
        if others and config.repair and not config.lossless:
            notes.append(
                f"repair left the weights of {several(others, 'layer')} as they are: other nodes that cannot be fitted "
                "with them read the same weights"
            )
    if prepared.data is not None and len(prepared.data) < _FEW_ROWS and not config.lossless:
        rows_given = several(len(prepared.data), "calibration row")
        notes.append(f"only {rows_given}: with a few hundred, the result is better, and its figures say more")
    return tuple(dict.fromkeys((*notes, *rows.notes)))
