"""Scores measured again around a solution: on the pruned and repaired model, in terms of the original's groups.

Damage that was measured with one group pruned at a time says little of what several do together. On a model that is
pruned already, a curve says what going on from there costs. The allocation then never widens a group again: what a
width above the present one does is taken to be nothing.
"""

from concurrent.futures import Executor
from dataclasses import replace
from math import ceil, log

import numpy as np

from onnxprune.allocation.decide import Decision
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.errors import BudgetError
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.graph.model import Model
from onnxprune.lossless import lossless
from onnxprune.pipeline.candidates import Solver
from onnxprune.pipeline.prepare import Prepared, score
from onnxprune.pipeline.shrink import shrink
from onnxprune.pipeline.trials import trial_rows
from onnxprune.structure.costs import count_costs
from onnxprune.structure.coupling import analyse
from onnxprune.structure.units import Group, Ids

_STEP = 0.62  # share of the time that a step leaves, or more


def stepwise(
    prepared: Prepared, scores: Scores, solver: Solver, config: PruneConfig, executor: Executor | None
) -> list[Decision]:
    """Go towards a budget of time in steps: decide, prune, repair, score again. Returns the last step's decision.

    Args:
        prepared: the original.
        scores: measured on the original.
        solver: decides.
        config: options of scorer and repair.
        executor: where tasks run.

    Returns:
        Nothing where no budget is on time, or where the steps do not reach it.
    """
    goal = solver.limits.goal
    if solver.towards is None or goal is None:
        return []
    own = replace(config, distill=0, cache=None)
    fit = replace(prepared, data=trial_rows(prepared))
    count = max(1, ceil(log(goal) / log(_STEP)))
    now = scores
    try:
        for step in range(1, count):
            decision = solver.towards(now, goal ** (step / count))
            smaller = shrink(fit, decision.removed, own, Clock(), no_progress)
            now = rescored(fit, scores, decision.removed, smaller, own, executor, no_progress)
        return [solver.solve(now, config.branches)] if count > 1 else []
    except BudgetError:
        return []


def rescored(
    prepared: Prepared,
    scores: Scores,
    removed: Ids,
    smaller: Model,
    config: PruneConfig,
    executor: Executor | None,
    progress: Progress,
) -> Scores:
    """Scores of the original's groups, measured on a pruned model.

    Args:
        prepared: the original.
        scores: those that were measured on the original.
        removed: `(units,)` what the pruned model lacks.
        smaller: the pruned and repaired model.
        config: options of the scorer.
        executor: where tasks run.
        progress: told of steps.
    """
    data = prepared.data
    analysis = analyse(smaller, None if data is None else data.shapes)
    exact = lossless(analysis, analysis.none_removed())
    again = Prepared(analysis, data, count_costs(smaller, analysis), exact)
    found = score(again, replace(config, cache=None), executor, progress)
    by_producer = {
        name: (group, own) for group, own in zip(analysis.groups, found.groups, strict=True) for name in group.producers
    }
    groups = []
    for group, before in zip(prepared.analysis.groups, scores.groups, strict=True):
        matches = (by_producer[name] for name in group.producers if name in by_producer)
        groups.append(_in_terms_of(group, before, removed, next(matches, None)))
    return replace(scores, groups=tuple(groups))


def _in_terms_of(group: Group, before: GroupScore, removed: Ids, match: tuple[Group, GroupScore] | None) -> GroupScore:
    """One group's score: the units that went come first and do no damage, then those of the pruned model's group."""
    gone = removed[group.units]
    left = np.flatnonzero(~gone)
    n = len(gone)
    if not len(left):
        return replace(before, damage=np.zeros(n + 1))
    order = before.order[gone[before.order]]
    if match is None or len(match[0]) != len(left):  # it stays as it is
        order = np.concatenate([order, before.order[~gone[before.order]]])
        return GroupScore(before.group, order, before.scores, np.zeros(n + 1), free=n - len(left), judged=False)
    now = match[1]
    damage = np.concatenate([now.damage, np.zeros(n - len(left))])
    shown = np.where(gone, 0.0, before.scores)
    shown[left] = now.scores
    return GroupScore(
        before.group,
        np.concatenate([order, left[now.order]]),
        shown,
        damage,
        free=n - len(left),
        judged=now.judged,
        whole=before.whole and now.whole,
    )
