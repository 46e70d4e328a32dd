"""The scorer `oamip`: chooses images, builds and solves the programs, and collects the scores."""

from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import replace

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.config import OamipConfig
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.results import ProgramReport
from onnxprune.core.scores import GroupScore, Scores, removal_to_damage
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.affine_scores import affine_scores
from onnxprune.importance.oamip.compile import compile_network, logits_of, score_points
from onnxprune.importance.oamip.decoupled import module_tasks
from onnxprune.importance.oamip.form import areas_of, check_form, chosen_form, images_asked_for, is_decoupled
from onnxprune.importance.oamip.images import choose, input_limits
from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.relu_constraints import Bounds, Gating
from onnxprune.importance.oamip.reporting import by_tensor, is_uninformed, uninformed
from onnxprune.importance.oamip.task import ProgramTask, TaskResult, run_task
from onnxprune.runtime.facts import gather_facts
from onnxprune.structure.analysis import Analysis

_STAGE = "importance programs"
_NOT_NORMALISED = (
    "no scored layer's values go into a BatchNormalization (many exporters fold it into the weights): "
    "--oamip-normalisation before changes nothing"
)
_PROVEN = 30  # integer gates up to which valid bounds are proved within a minute or two


def score(context: ScoreContext) -> Scores:
    """Score every group by the paper's program (see `program`).

    Raises:
        InputError: there is no calibration data, or no row of it is classified right.
        ModelError: the program cannot hold an operator, or would be too large.
        SolverError: a program could not be solved.
    """
    if context.data is None or not len(context.data):
        raise InputError("--importance oamip needs calibration inputs; give them with --data")
    check_form(context.oamip)
    if not context.analysis.groups:
        return Scores(())
    config, data = context.oamip, context.data
    analysis = _at_sizes(context, data)
    form, reason = chosen_form(context, analysis)
    logits = Runner(context.model, [logits_of(analysis)], engine=context.run.engine).collect(data)
    values = next(iter(logits.values()))
    values = values.reshape(len(data), -1)
    if values.shape[1] < 2:
        raise ModelError(
            f"{context.model.name}: --importance oamip needs a classifier, and the model has {values.shape[1]} output "
            "value(s) a row; use another --importance"
        )
    predicted = values.argmax(axis=1)
    choice = choose(images_asked_for(config, form), predicted, data.classes, context.run.seed)
    labels = predicted if data.classes is None else data.classes
    notes = [*choice.notes, *reason]
    if config.normalisation == "before" and list(score_points(analysis, "before")) == list(score_points(analysis)):
        notes.append(_NOT_NORMALISED)
    layers = [group.units for group in context.analysis.groups]
    if form == "affine":
        return affine_scores(context, analysis, choice.sets, labels, notes)
    if form == "decoupled":
        tasks, more = module_tasks(context, analysis, choice.sets, labels, _how(config, data, exact=True))
        notes += more
        results = _run(context, tasks)
    else:
        tasks = _joint_tasks(context, analysis, data, choice.sets, labels)
        results = (
            [result for task in tasks for result in _last_to_first(context, task, layers)]
            if config.order == "last-first"
            else _run(context, tasks)
        )
    told, limited = _informed(context, results)
    return _scores(context, analysis, told, len(choice.sets), sum(len(s) for s in choice.sets), [*notes, *limited])


def _at_sizes(context: ScoreContext, data: Dataset) -> Analysis:
    """The analysis at the input sizes of the data."""
    given = {name: (1, *array.shape[1:]) for name, array in data.take([0]).feeds().items()}
    facts = context.analysis.facts
    if facts is None or any(facts.shapes.get(name) != shape for name, shape in given.items()):
        facts = gather_facts(context.model, context.analysis.graph, given)
    if facts.batch != 1 and not is_decoupled(context.oamip):
        raise ModelError(
            f"{context.model.name}: the program of --importance oamip holds single images, and the model's "
            f"batch is fixed to {facts.batch}; export it with a batch of 1 or a symbolic one"
        )
    return context.analysis.with_facts(facts)


def _how(config: OamipConfig, data: Dataset, *, exact: bool = False) -> Propagation:
    bounds = Bounds(config.bounds)
    gating = Gating(bounds, config.gates == "integer")
    # Bounds for all scores start at the image itself: the first layer's gates are then decided.
    epsilon = config.epsilon if bounds is Bounds.EPS else 0.0
    limits = input_limits(data) if config.box == "clamped" else {}
    tighten = config.tighten and bounds is Bounds.VALID
    return Propagation(gating, epsilon, tighten, exact, config.linear == "raw", limits)


def _joint_tasks(
    context: ScoreContext, analysis: Analysis, data: Dataset, sets: Sequence[np.ndarray], labels: np.ndarray
) -> list[ProgramTask]:
    """One program over the whole network for each set of images."""
    config = context.oamip
    points = score_points(analysis, config.normalisation)
    network = compile_network(analysis, points, [logits_of(analysis)])
    layers = tuple(group.units for group in context.analysis.groups)
    how = _how(config, data, exact=config.order == "last-first")  # layers in front keep all units
    tasks = []
    for rows in sets:
        images = tuple(data.take([row]).feeds() for row in rows)
        tasks.append(
            ProgramTask(
                name=f"program of {analysis.name}",
                network=network,
                images=images,
                labels=np.asarray(labels[rows]),
                layers=layers,
                areas=areas_of(context.analysis, layers, config),
                fixed=np.ones(context.analysis.units),
                lambda_=config.lambda_,
                how=how,
                time_limit=config.time_limit,
                seed=context.run.seed,
            )
        )
    return tasks


def _run(context: ScoreContext, tasks: Sequence[ProgramTask]) -> list[TaskResult]:
    """Run tasks, and return their results in order."""
    context.progress(_STAGE, 0, len(tasks))
    futures = {context.executor.submit(run_task, task): index for index, task in enumerate(tasks)}
    results: dict[int, TaskResult] = {}
    for future in as_completed(futures):
        results[futures[future]] = future.result()
        context.progress(_STAGE, len(results), len(tasks))
    return [results[index] for index in range(len(tasks))]


def _last_to_first(context: ScoreContext, task: ProgramTask, layers: Sequence[np.ndarray]) -> list[TaskResult]:
    """Score one layer at a time, from the last to the first; scores of later layers are kept fixed.

    Scores of earlier layers are 1.
    """
    fixed = task.fixed.copy()
    results = []
    for done, units in enumerate(reversed(layers)):
        context.progress(_STAGE, done, len(layers))
        own = None if task.areas is None else (task.areas[-1 - done],)
        result = context.executor.submit(
            run_task, replace(task, layers=(units,), areas=own, fixed=fixed.copy())
        ).result()
        fixed[units] = result.scores
        results.append(result)
    context.progress(_STAGE, len(layers), len(layers))
    return results


def _informed(context: ScoreContext, results: Sequence[TaskResult]) -> tuple[list[TaskResult], list[str]]:
    """The results that say something, and notes on programs that were stopped.

    Raises:
        SolverError: no result says anything.
    """
    told, notes = [], []
    for number, result in enumerate(results, 1):
        if result.status != "optimal" and is_uninformed(result.scores):
            notes.append(
                f"program {number}: stopped at its limit with all scores alike, which say nothing; units without other "
                "scores stay"
            )
            continue
        told.append(result)
        if result.status != "optimal":
            many = f"; it has {result.gates:,} integer gates ({_PROVEN} take minutes)" if result.gates > _PROVEN else ""
            notes.append(f"program {number}: stopped at the time limit{many}")
    if not told:
        raise uninformed(context.model.name)
    return told, notes


def _scores(
    context: ScoreContext,
    analysis: Analysis,
    results: Sequence[TaskResult],
    sets: int,
    images: int,
    notes: Sequence[str],
) -> Scores:
    """Average the scores of the programs for each unit, and make the report.

    Args:
        context: the run.
        analysis: the model's, at the data's sizes.
        results: of the programs.
        sets: how many of them score a unit for the same layer, each with its own images.
        images: in all sets.
        notes: what the user should know.
    """
    analysis, config = context.analysis, context.oamip
    total, times, activity = np.zeros(analysis.units), np.zeros(analysis.units), np.zeros(analysis.units)
    for result in results:
        np.add.at(total, result.units, result.scores)
        np.add.at(times, result.units, 1.0)
        np.maximum.at(activity, result.units, result.activity)
    unit_scores = total / np.maximum(times, 1.0)
    groups = []
    for group in analysis.groups:
        scores = unit_scores[group.units]
        # Many scores are exactly 0 or 1: among equals, the least active unit goes first.
        order = np.lexsort((activity[group.units], scores))
        judged = bool(times[group.units].all())
        # What is removed in several modules is charged in each of them; sets of images are averaged.
        damage = removal_to_damage(scores) * max(1.0, float(times[group.units].mean()) / sets)
        groups.append(GroupScore(group.name, order, scores, damage, judged=judged))
    objective, bound = (float(np.mean([getattr(r, name) for r in results])) for name in ("objective", "bound"))
    solved = all(result.status == "optimal" for result in results)
    program = ProgramReport(
        status="optimal" if solved else "limit",
        objective=objective,
        bound=bound,
        gap=(objective - bound) / max(1.0, abs(objective)),
        seconds=float(sum(result.seconds for result in results)),
    )
    report = {
        "form": "decoupled" if is_decoupled(config) else "joint",
        "objective": objective,
        "sparsity_term": float(np.mean([result.sparsity_term for result in results])),
        "loss_term": float(np.mean([result.loss_term for result in results])),
        "images": images,
        "lambda": config.lambda_,
        "epsilon": config.epsilon,
        "gates": config.gates,
        "bounds": config.bounds,
        "programs": len(results),
        "rows": sum(result.rows for result in results),
        "columns": sum(result.columns for result in results),
        "integer_gates": sum(result.gates for result in results),
        "scores": by_tensor(context, analysis, unit_scores),
    }
    return Scores(tuple(groups), program, report, tuple(notes))
