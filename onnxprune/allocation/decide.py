"""Decides which units are removed: those below a score threshold, or as the allocation program says to meet budgets."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.keep import kept_groups
from onnxprune.allocation.lean import lean
from onnxprune.allocation.options import AllocationOptions
from onnxprune.allocation.problem import Allocation, AllocationProblem, Budget
from onnxprune.allocation.widths import Widths
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.results import LatencyReport, ProgramReport
from onnxprune.core.scores import Scores
from onnxprune.core.text import percent, several
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.cut import Cuts
from onnxprune.structure.units import Ids

_SOLVED = 4  # times that the program is solved at most
_SPENT = 0.9  # share of a budget below which the user should know why


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
    config: AllocationOptions,
    *,
    minimum: Mapping[str, int] | None = None,
    branches: bool = False,
    most_work: float | None = None,
    spend: bool = True,
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
        branches: whether groups may go as a whole, where the scorer says what that costs.
        most_work: how much work may be left in the kernels, where the widths' rule knows it; None for any.
        spend: whether the budgets are the user's, who is told where much of them is not used.

    Raises:
        BudgetError: no choice meets the budgets.
        SolverError: the solver failed.
    """
    problem = _problem(analysis, scores, budgets, config, minimum, branches=branches)
    choose = partial(allocate, seed=config.seed)
    if most_work is not None and widths.work is not None:
        choose = partial(lean, work=widths.work, limit=most_work, seed=config.seed)
    decision = _decided(analysis, scores, problem, widths, choose)
    unspent = _unspent(decision, budgets) if spend and most_work is None else ()
    return replace(decision, notes=(*decision.notes, *unspent))


def _unspent(decision: Decision, budgets: Sequence[Budget]) -> tuple[str, ...]:
    """A note where widths in steps, and not units that are worth nothing, leave much less than every budget allows."""
    spent = max((decision.predicted[budget.name] / budget.limit for budget in budgets if budget.limit > 0), default=1.0)
    if spent >= _SPENT or max(decision.steps, default=1) == 1 or not decision.damage:
        return ()
    return (
        f"only {percent(spent, 0)} of the budget is used: the widths that the rule {decision.rule!r} likes are in "
        f"steps of up to {max(decision.steps)}, and the next larger ones are above it; --round-to 1 comes nearer, "
        "perhaps with no gain in time",
    )


def narrowest(
    analysis: Analysis, scores: Scores, widths: Widths, config: AllocationOptions, *, branches: bool = False
) -> Decision:
    """Give every group the smallest width that it may have; arguments as in `by_budget`."""
    problem = _problem(analysis, scores, (), config, None, branches=branches)
    return _decided(analysis, scores, problem, widths, _smallest)


def _problem(
    analysis: Analysis,
    scores: Scores,
    budgets: Sequence[Budget],
    config: AllocationOptions,
    minimum: Mapping[str, int] | None,
    *,
    branches: bool,
) -> AllocationProblem:
    """The allocation problem; arguments as in `by_budget`."""
    stays = kept_groups(analysis, config.keep)
    least = tuple(max((minimum or {}).get(score.group, 1), score.least) for score in scores.groups)
    fixed = frozenset(index for index, group in enumerate(analysis.groups) if group.name in stays)
    whole = {g for g, score in enumerate(scores.groups) if branches and score.whole and least[g] == 1} - fixed
    return AllocationProblem(
        damage=tuple(score.damage for score in scores.groups),
        budgets=tuple(budgets),
        minimum=least,
        fixed=fixed,
        whole=frozenset(whole),
    )


def _smallest(problem: AllocationProblem) -> Allocation:
    """The smallest allowed width of each group."""
    kept = tuple(int(problem.widths(g)[0]) for g in range(len(problem.damage)))
    damage = float(sum(curve[k] for curve, k in zip(problem.damage, kept, strict=True)))
    predicted = tuple(budget.cost(kept) for budget in problem.budgets)
    return Allocation(kept, damage, 0.0, 1.0, "none", 0.0, 0, predicted)


def _decided(
    analysis: Analysis,
    scores: Scores,
    problem: AllocationProblem,
    widths: Widths,
    choose: Callable[[AllocationProblem], Allocation],
) -> Decision:
    """The decision that a choice of widths comes to."""
    allocation, widths, removed = _solved(analysis, scores, problem, widths, choose)
    return Decision(
        removed=removed,
        program=ProgramReport(
            allocation.status, allocation.objective, allocation.bound, allocation.gap, allocation.seconds
        ),
        predicted={b.name: value for b, value in zip(problem.budgets, allocation.predicted, strict=True)},
        damage=allocation.objective,
        notes=() if widths.note is None else (widths.note,),
        rule=widths.rule,
        steps=widths.steps,
    )


def _solved(
    analysis: Analysis,
    scores: Scores,
    problem: AllocationProblem,
    widths: Widths,
    choose: Callable[[AllocationProblem], Allocation],
) -> tuple[Allocation, Widths, Ids]:
    """The program's answer, the widths that it was allowed, and which units go.

    Each branch may go alone, but not always all of them together, and none that takes a kept group along: then those
    that do most damage stay, and the program is solved anew. It is solved anew too where groups go along with a branch,
    without the cost that they had counted for.
    """
    cuts = Cuts(analysis) if problem.whole else None
    for left in reversed(range(_SOLVED)):
        widths, at_widths = _reachable(problem, widths)
        allocation = choose(at_widths)
        removed = analysis.none_removed()
        for group, score, kept in zip(analysis.groups, scores.groups, allocation.kept, strict=True):
            removed[group.units[score.order[: len(group) - kept]]] = True
        empty = {g for g in problem.whole if allocation.kept[g] == 0}
        if cuts is None or not empty:
            break
        together = _together(analysis, scores, cuts, empty, problem.fixed)
        cut = cuts.find(removed)
        along = {g for g, group in enumerate(analysis.groups) if cut.removed[group.units].all()} - empty
        if together != empty:
            problem = replace(problem, whole=together if left > 1 else frozenset())
        elif along - problem.gone and left:
            problem = replace(problem, gone=frozenset(empty | along), whole=frozenset())
        else:
            return allocation, widths, cut.removed
    return allocation, widths, removed


def _together(
    analysis: Analysis, scores: Scores, cuts: Cuts, groups: Collection[int], fixed: Collection[int]
) -> frozenset[int]:
    """Groups that can go as a whole together, without a fixed one: as many as can, those that do least damage first."""
    removed, together = analysis.none_removed(), set[int]()
    stays = [analysis.groups[g].units for g in fixed]
    for g in sorted(groups, key=lambda g: (float(scores.groups[g].damage[0]), g)):
        more = removed.copy()
        more[analysis.groups[g].units] = True
        cut = cuts.find(more)
        if cut.problem is None and not any(cut.removed[units].any() for units in stays):
            removed = more
            together.add(g)
    return frozenset(together)


def _reachable(problem: AllocationProblem, widths: Widths) -> tuple[Widths, AllocationProblem]:
    """The first widths with which the budgets can be met: those given, else finer and finer ones.

    Raises:
        BudgetError: the finest cannot.
    """
    while True:
        allowed = {g: widths.of(g) for g in range(len(problem.damage))}
        at_widths = replace(problem, allowed=allowed, whole=problem.whole - widths.bound)
        try:
            at_widths.check_reachable()
        except BudgetError:
            finer = widths.finer()
            if finer is None:
                raise
            widths = finer
        else:
            return widths, at_widths


def by_threshold(
    analysis: Analysis, scores: Scores, threshold: str, widths: Widths, config: AllocationOptions
) -> Decision:
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


def without_loss(analysis: Analysis, lossless: Ids, widths: Widths) -> Decision:
    """Remove only units whose removal does not change the outputs, as far as the allowed widths let it.

    Args:
        analysis: the analysed model.
        lossless: `(units,)` True where a unit goes without loss.
        widths: the widths that groups may be given.
    """
    removed = analysis.none_removed()
    stay = 0
    for index, group in enumerate(analysis.groups):
        gone = group.units[lossless[group.units]]
        kept = widths.at_least(index, max(1, len(group) - len(gone)))
        removed[gone[: len(group) - kept]] = True
        stay += min(len(gone), len(group) - 1) - (len(group) - kept)
    notes = []
    if stay:
        notes.append(
            f"{several(stay, 'more unit')} could go without loss, but would leave widths that kernels are slower at; "
            "--round-to 1 removes them too"
        )
    elif not removed.any():
        notes.append(
            "no unit can go without loss, so that all of them stay; a budget (--target) removes some with loss"
        )
    return Decision(removed, ProgramReport("none"), {}, 0.0, notes=tuple(notes), rule=widths.rule, steps=widths.steps)


def _number(threshold: str) -> float:
    try:
        value = float(threshold)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--threshold {threshold!r}: use a number from 0 to 1, or mean")
    return value
