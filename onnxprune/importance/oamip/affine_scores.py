"""Scores where logits are treated as affine functions of the scores: one small program over all images."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from onnxprune.core.errors import InputError
from onnxprune.core.results import ProgramReport
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.compile import logits_of, score_points
from onnxprune.importance.oamip.linearised import affine_program, linearise, removal_damage
from onnxprune.importance.oamip.program import OamipProgram
from onnxprune.importance.oamip.reporting import by_tensor
from onnxprune.importance.oamip.solve import Solution, solve
from onnxprune.structure.analysis import Analysis


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
    config, logits, points = context.oamip, logits_of(analysis), score_points(analysis)
    layers = tuple(group.units for group in analysis.groups)
    units = np.concatenate(layers)
    total, squares = np.zeros(analysis.units), np.zeros(analysis.units)
    parts: list[np.ndarray] = []
    solved: list[tuple[OamipProgram, Solution]] = []
    for number, rows in enumerate(sets):
        context.progress("importance programs", number, len(sets))
        classes = np.asarray(labels[rows])
        linear = linearise(analysis, context.data.take(rows), logits, points, classes, context.run.engine)
        program = affine_program(linear, None if context.data.classes is None else classes, layers, config.lambda_)
        solution = solve(program, f"program of {analysis.name}", time_limit=config.time_limit, seed=context.run.seed)
        total[units] += np.clip(solution.x[np.concatenate(program.layers)], 0.0, 1.0)
        parts.append(linear.contribution())
        squares += np.sum(parts[-1].astype(np.float64) ** 2, axis=(0, 1))
        solved.append((program, solution))
    context.progress("importance programs", len(sets), len(sets))
    contribution = np.concatenate(parts) if len({part.shape[1] for part in parts}) == 1 else parts[0]
    strength = np.sqrt(squares / sum(len(rows) for rows in sets))
    scores = total / len(sets)
    groups = []
    for group in analysis.groups:
        # Many scores are 0 or 1, and small differences are chance of the images: among scores that are nearly equal,
        # the unit that adds least to the logits goes first.
        order = np.lexsort((strength[group.units], np.round(scores[group.units], 1)))
        damage = removal_damage(contribution[:, :, group.units], order)
        groups.append(GroupScore(group.name, order, scores[group.units], damage))
    return Scores(tuple(groups), *_reports(context, analysis, solved, sets, scores, perf_counter() - began, notes))


def _reports(
    context: ScoreContext,
    analysis: Analysis,
    solved: Sequence[tuple[OamipProgram, Solution]],
    sets: Sequence[np.ndarray],
    scores: np.ndarray,
    seconds: float,
    notes: Sequence[str],
) -> tuple[ProgramReport, dict[str, object], tuple[str, ...]]:
    config = context.oamip
    objective, bound = (float(np.mean([getattr(s, name) for _, s in solved])) for name in ("objective", "bound"))
    reached = all(solution.status == "optimal" for _, solution in solved)
    program = ProgramReport(
        status="optimal" if reached else "limit",
        objective=objective,
        bound=bound,
        gap=(objective - bound) / max(1.0, abs(objective)),
        seconds=seconds,
    )
    chosen = np.concatenate([scores[group.units] for group in analysis.groups])
    if not reached and (chosen >= 1.0).all():
        raise InputError(
            f"{analysis.name}: the program of --importance oamip ended at its limit with all scores at 1, which say "
            "nothing; give more --oamip-time-limit, or fewer --oamip-images"
        )
    report = {
        "form": "affine",
        "objective": objective,
        "sparsity_term": float(np.mean([p.sparsity_term(s.x) for p, s in solved])),
        "loss_term": float(np.mean([p.loss_term(s.x) for p, s in solved])),
        "images": sum(len(rows) for rows in sets),
        "lambda": config.lambda_,
        "epsilon": 0.0,
        "gates": "fixed",
        "bounds": "none",
        "programs": len(solved),
        "rows": sum(p.linear.A.shape[0] for p, _ in solved),
        "columns": sum(len(p.linear.c) for p, _ in solved),
        "integer_gates": 0,
        "scores": by_tensor(context, analysis, scores),
    }
    return program, report, tuple(notes)
