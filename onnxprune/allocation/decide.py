"""Decides which units are removed: those below a score threshold, or as the allocation program says to meet budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.keep import kept_groups
from onnxprune.allocation.problem import AllocationProblem, Budget
from onnxprune.allocation.widths import Widths
from onnxprune.config import PruneConfig
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.results import LatencyReport, ProgramReport
from onnxprune.core.scores import Scores
from onnxprune.core.text import several
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


@dataclass(frozen=True, slots=True)
class Decision:
    """Which units are removed, and how that was decided.

    Attributes:
        removed: `(units,)` True where a unit goes.
        program: status of the allocation program; "none" where a threshold decided.
        predicted: cost per budget name.
        damage: predicted damage, summed over groups.
        latency: where there was a latency budget.
        notes: what the user should know.
        rule: what chose the widths that groups could be given.
        steps: per group, what its width is a multiple of; empty where a plan decided.
    """

    removed: Ids
    program: ProgramReport
    predicted: Mapping[str, float]
    damage: float
    latency: LatencyReport | None = None
    notes: tuple[str, ...] = ()
    rule: str = ""
    steps: tuple[int, ...] = ()


def by_budget(
    analysis: Analysis,
    scores: Scores,
    budgets: Sequence[Budget],
    widths: Widths,
    config: PruneConfig,
    *,
    minimum: Mapping[str, int] | None = None,
) -> Decision:
    """Meet budgets: solve the allocation program, and remove each group's least important units.

    Where no allowed widths meet the budgets, finer ones are tried, as far as `widths` gives way.

    Args:
        analysis: the analysed model.
        scores: order and damage curve of each group.
        budgets: all of them must hold.
        widths: the widths that groups may be given.
        config: `keep` and `seed`.
        minimum: least number of kept units by group name.

    Raises:
        BudgetError: no choice meets the budgets.
        SolverError: the solver failed.
    """
    whole = kept_groups(analysis, config.keep)
    problem = AllocationProblem(
        damage=tuple(score.damage for score in scores.groups),
        budgets=tuple(budgets),
        minimum=tuple(max((minimum or {}).get(score.group, 1), score.least) for score in scores.groups),
        fixed=frozenset(index for index, group in enumerate(analysis.groups) if group.name in whole),
    )
    widths, problem = _reachable(problem, widths)
    found = allocate(problem, seed=config.seed)
    removed = analysis.none_removed()
    for group, score, kept in zip(analysis.groups, scores.groups, found.kept, strict=True):
        removed[group.units[score.order[: len(group) - kept]]] = True
    return Decision(
        removed=removed,
        program=ProgramReport(found.status, found.objective, found.bound, found.gap, found.seconds),
        predicted={b.name: value for b, value in zip(budgets, found.predicted, strict=True)},
        damage=found.objective,
        notes=() if widths.note is None else (widths.note,),
        rule=widths.rule,
        steps=widths.steps,
    )


def _reachable(problem: AllocationProblem, widths: Widths) -> tuple[Widths, AllocationProblem]:
    """The first widths with which the budgets can be met: those given, else finer and finer ones.

    Raises:
        BudgetError: the finest cannot.
    """
    while True:
        allowed = {g: widths.of(g) for g in range(len(problem.damage))}
        at_widths = replace(problem, allowed=allowed)
        try:
            at_widths.check_reachable()
        except BudgetError:
            finer = widths.finer()
            if finer is None:
                raise
            widths = finer
        else:
            return widths, at_widths


def by_threshold(analysis: Analysis, scores: Scores, threshold: str, widths: Widths, config: PruneConfig) -> Decision:
    """Remove the units whose score is below a fixed value, or below the mean of their group.

    The best unit of each group stays; counts are rounded up to the next allowed width. What goes without loss goes
    whatever the threshold.

    Raises:
        InputError: the threshold is neither a number in [0, 1] nor "mean".
    """
    fixed = None if threshold == "mean" else _number(threshold)
    removed = analysis.none_removed()
    whole = kept_groups(analysis, config.keep)
    damage = 0.0
    for index, (group, score) in enumerate(zip(analysis.groups, scores.groups, strict=True)):
        if group.name in whole:
            continue
        limit = float(score.scores.mean()) if fixed is None else fixed
        values = score.scores.copy()
        values[score.order[: score.free]] = -1.0
        kept = widths.at_least(index, max(score.least, int(np.count_nonzero(values >= limit))))
        order = np.argsort(values, kind="stable")
        removed[group.units[order[: len(group) - kept]]] = True
        damage += float(score.damage[kept])
    return Decision(removed, ProgramReport("none"), {}, damage, rule=widths.rule, steps=widths.steps)


def without_loss(analysis: Analysis, free: Ids, widths: Widths) -> Decision:
    """Remove only units whose removal does not change the outputs, as far as the allowed widths let it.

    Args:
        analysis: the analysed model.
        free: `(units,)` True where a unit goes without loss.
        widths: the widths that groups may be given.
    """
    removed = analysis.none_removed()
    stay = 0
    for index, group in enumerate(analysis.groups):
        gone = group.units[free[group.units]]
        kept = widths.at_least(index, max(1, len(group) - len(gone)))
        removed[gone[: len(group) - kept]] = True
        stay += min(len(gone), len(group) - 1) - (len(group) - kept)
    notes = (
        ()
        if stay == 0
        else (
            f"{several(stay, 'more unit')} could go without loss, but would leave widths that kernels are slower at; "
            "--round-to 1 removes them too",
        )
    )
    return Decision(removed, ProgramReport("none"), {}, 0.0, notes=notes, rule=widths.rule, steps=widths.steps)


def _number(threshold: str) -> float:
    try:
        value = float(threshold)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--threshold {threshold!r}: use a number from 0 to 1, or mean")
    return value
