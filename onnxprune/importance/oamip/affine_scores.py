"""Scores where logits are treated as affine functions of the scores: one small program over all images."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.core.errors import ModelError
from onnxprune.core.results import ProgramReport
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.core.text import percent
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.compile import ScorePoints, compile_network, logits_of, score_points
from onnxprune.importance.oamip.form import areas_of
from onnxprune.importance.oamip.gate_rows import GateRows
from onnxprune.importance.oamip.images import input_limits
from onnxprune.importance.oamip.lazy_rows import solve_with_rows
from onnxprune.importance.oamip.linearised import Linearised, affine_program, linearise, removal_damage, removal_order
from onnxprune.importance.oamip.program import OamipProgram
from onnxprune.importance.oamip.reporting import by_tensor, is_uninformed, uninformed
from onnxprune.importance.oamip.solve import Solution, solve
from onnxprune.importance.oamip.steps import StepNetwork
from onnxprune.structure.analysis import Analysis

_MOST_GATES = 4_000_000  # scored positions of all images, up to which rows of gates are looked for
_OPEN = 1e-3  # share of gates that bounds may leave open where rows are added


@dataclass(frozen=True, slots=True)
class _Solved:
    """The program of one set of images with its solution, and what is known of the joint program's rows there."""

    program: OamipProgram
    solution: Solution
    gates: GateRows | None
    added: int = 0
    rounds: int = 1
    violation: float = 0.0


def affine_scores(
    context: ScoreContext, analysis: Analysis, sets: Sequence[np.ndarray], labels: np.ndarray, notes: Sequence[str]
) -> Scores:
    """Score every group. With several sets of images, one program is solved for each, and scores are averaged.

    Args:
        context: the run.
        analysis: the model's, at the data's sizes.
        sets: rows of each program.
        labels: `(rows,)` classes; the model's own where the data have none.
        notes: what the user should know already.
    """
    assert context.data is not None  # checked by `score`
    began = perf_counter()
    logits, points = logits_of(analysis), score_points(analysis, context.oamip.normalisation)
    units = np.concatenate([group.units for group in analysis.groups])
    total = np.zeros(analysis.units)
    parts: list[np.ndarray] = []
    solved: list[_Solved] = []
    network = _network(context, analysis, points, max(len(rows) for rows in sets))
    for number, rows in enumerate(sets):
        context.progress("importance programs", number, len(sets))
        classes = np.asarray(labels[rows])
        linear = linearise(analysis, context.data.take(rows), logits, points, classes, context.run.engine)
        solved.append(_solve(context, analysis, linear, classes, context.data.take(rows), network))
        columns = np.concatenate(solved[-1].program.layers)
        total[units] += np.clip(solved[-1].solution.x[columns], 0.0, 1.0)
        parts.append(linear.contribution())
    context.progress("importance programs", len(sets), len(sets))
    contribution = np.concatenate(parts) if len({part.shape[1] for part in parts}) == 1 else parts[0]
    scores = total / len(sets)
    groups = []
    for group in analysis.groups:
        own = contribution[:, :, group.units]
        order = removal_order(own, scores[group.units])
        damage = removal_damage(own, order)
        groups.append(GroupScore(group.name, order, scores[group.units], damage))
    return Scores(tuple(groups), *_reports(context, analysis, solved, sets, scores, perf_counter() - began, notes))


def _network(context: ScoreContext, analysis: Analysis, points: ScorePoints, images: int) -> StepNetwork | None:
    """The network for the rows of gates; None where they are not wanted, too many, or not all of the form."""
    if context.oamip.rows == "none" or images * sum(map(len, points.values())) > _MOST_GATES:
        return None
    try:
        return compile_network(analysis, points, [logits_of(analysis)])
    except ModelError:  # a smooth activation, say: the affine form linearises what has no gates
        return None


def _solve(
    context: ScoreContext,
    analysis: Analysis,
    linear: Linearised,
    classes: np.ndarray,
    data: Dataset,
    network: StepNetwork | None,
) -> _Solved:
    """Build and solve the program of some images, with the joint program's rows where no gate is open."""
    config, layers = context.oamip, tuple(group.units for group in analysis.groups)
    program = affine_program(
        linear, None if data.classes is None else classes, layers, config.lambda_, areas_of(analysis, layers, config)
    )
    name, limit, seed = f"program of {analysis.name}", config.time_limit, context.run.seed
    if network is None:
        return _Solved(program, solve(program, name, time_limit=limit, seed=seed, vertex=False), None)
    assert context.data is not None
    limits = input_limits(context.data) if config.box == "clamped" else {}
    images = [data.take([row]).feeds() for row in range(len(data))]
    gates = GateRows(network, images, analysis.units, config.epsilon, limits)
    units = np.concatenate(layers)
    if gates.open > _OPEN * gates.gates:
        solution = solve(program, name, time_limit=limit, seed=seed, vertex=False)
        scores = np.ones(analysis.units)
        scores[units] = np.clip(solution.x[np.concatenate(program.layers)], 0.0, 1.0)
        return _Solved(program, solution, gates, violation=gates.violation(scores))
    found = solve_with_rows(program, gates, units, name, time_limit=limit, seed=seed)
    return _Solved(found.program, found.solution, gates, found.added, found.rounds, found.violation)


def _reports(
    context: ScoreContext,
    analysis: Analysis,
    solved: Sequence[_Solved],
    sets: Sequence[np.ndarray],
    scores: np.ndarray,
    seconds: float,
    notes: Sequence[str],
) -> tuple[ProgramReport, dict[str, object], tuple[str, ...]]:
    config = context.oamip
    objective, bound = (float(np.mean([getattr(s.solution, name) for s in solved])) for name in ("objective", "bound"))
    reached = all(one.solution.status == "optimal" for one in solved)
    program = ProgramReport(
        status="optimal" if reached else "limit",
        objective=objective,
        bound=bound,
        gap=(objective - bound) / max(1.0, abs(objective)),
        seconds=seconds,
    )
    chosen = np.concatenate([scores[group.units] for group in analysis.groups])
    if not reached and is_uninformed(chosen):
        raise uninformed(context.model.name)
    gates = [one.gates for one in solved if one.gates is not None]
    total, left_open = (sum(getattr(one, name) for one in gates) for name in ("gates", "open"))
    with_rows = bool(gates) and left_open <= _OPEN * total
    if gates and not with_rows:
        notes = (
            *notes,
            f"bounds leave {percent(left_open / total, 0)} of the gates open: the program is without the joint one's "
            f"rows, which its scores break by up to {max(one.violation for one in solved):.2g} of the values' size",
        )
    report = {
        "form": "affine",
        "objective": objective,
        "sparsity_term": float(np.mean([one.program.sparsity_term(one.solution.x) for one in solved])),
        "loss_term": float(np.mean([one.program.loss_term(one.solution.x) for one in solved])),
        "images": sum(len(rows) for rows in sets),
        "lambda": config.lambda_,
        "epsilon": config.epsilon if with_rows else 0.0,
        "gates": "fixed",
        "bounds": "eps" if with_rows else "none",
        "programs": len(solved),
        "rows": sum(one.program.linear.A.shape[0] for one in solved),
        "columns": sum(len(one.program.linear.c) for one in solved),
        "integer_gates": 0,
        "scores": by_tensor(context, analysis, scores),
    }
    if gates:
        report |= {
            "open_gates": left_open,
            "lazy_rows": sum(one.added for one in solved),
            "rounds": max(one.rounds for one in solved),
            "violation": max(one.violation for one in solved),
        }
    return program, report, tuple(notes)
