"""What a run has decided and tried so far, which serves the budgets that follow: those of a sweep, or of a search."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.allocation.costs import budgets
from onnxprune.allocation.decide import Decision, by_budget
from onnxprune.allocation.problem import Budget
from onnxprune.allocation.widths import Widths
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Progress
from onnxprune.core.costs import COST_KINDS
from onnxprune.core.errors import BudgetError
from onnxprune.core.scores import Scores
from onnxprune.core.targets import Target
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.trials import Loss

if TYPE_CHECKING:
    from onnxprune.latency.search import LatencySearch


@dataclass(slots=True)
class Candidates:
    """Decisions of one run, with what their trials said. A later budget may take one that an earlier one made.

    Attributes:
        shared: whether several budgets are to be met: then every decision is judged, also where it has no rival.
        judged: decisions and their losses on rows kept apart, by removal mask.
        search: what is known of the model's time; None before the first budget of time.
    """

    shared: bool = False
    judged: dict[bytes, tuple[Decision, Loss]] = field(default_factory=dict)
    search: "LatencySearch | None" = None

    def add(self, decisions: Sequence[Decision], losses: Sequence[Loss]) -> None:
        """Keep decisions with their losses."""
        for decision, loss in zip(decisions, losses, strict=True):
            self.judged.setdefault(decision.removed.tobytes(), (decision, loss))

    def drop(self, decision: Decision) -> None:
        """Forget a decision: there is a better one."""
        self.judged.pop(decision.removed.tobytes(), None)

    def fitting(self, limits: "Limits") -> list[tuple[Decision, Loss]]:
        """The judged decisions that meet some budgets, the first made first."""
        return [(decision, loss) for decision, loss in self.judged.values() if limits.hold(decision)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets that a decision has to meet.

    Attributes:
        prepared: the model.
        exact: those on counted costs.
        goal: share of the original's time; None where no budget is on time.
    """

    prepared: Prepared
    exact: tuple[Budget, ...]
    goal: float | None

    def hold(self, decision: Decision) -> bool:
        """Whether a decision meets all budgets."""
        kept = self.prepared.analysis.kept(decision.removed)
        if any(budget.cost(kept) > budget.limit for budget in self.exact):
            return False
        if self.goal is None:
            return True
        from onnxprune.latency.search import NOISE

        return decision.latency is not None and decision.latency.ratio <= self.goal * (1 + NOISE)


_LESS = 0.96  # of the work in the kernels, from one answer to the next with less of it
_MOST_LESS = 10  # such answers to one curve
_LIMITED = "macs"  # the budget that less work in the kernels goes beyond

LEANER = 4
"""Answers with less work in the kernels that are tried."""

FINALS = 4
"""Answers that are tried again on other rows, of which half may have less work in the kernels."""

Solve = Callable[[Scores, bool], Decision]
"""From scores, and whether whole branches may go, to a decision that meets all budgets."""


@dataclass(frozen=True, slots=True)
class Solver:
    """What decides under the budgets of a run.

    Attributes:
        solve: meets all of them.
        limits: the budgets.
        timed: whether a budget is on time.
        leaner: from how much work may be left in the kernels to what meets all of them with no more; None where that
            work is not known, or no budget takes away multiply-adds.
        work: of a decision, in the kernels; 1 where it is not known.
    """

    solve: Solve
    limits: Limits
    timed: bool = False
    leaner: Callable[[float], Solve] | None = None
    work: Callable[[Decision], float] = lambda _: 1.0

    def damage(self, decision: Decision, scores: Scores) -> float:
        """What a decision does by damage curves, summed over groups."""
        kept = self.limits.prepared.analysis.kept(decision.removed)
        return sum(float(score.damage[units]) for score, units in zip(scores.groups, kept, strict=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program answers.

    Attributes:
        decision: the answer.
        scores: the damage curves that it answers to.
        branches: whether whole branches might go.
    """

    decision: Decision
    scores: Scores
    branches: bool = False


def solver_for(
    prepared: Prepared,
    config: PruneConfig,
    candidates: Candidates,
    widths: Callable[[], Widths],
    progress: Progress,
) -> Solver:
    """What decides under the budgets of the options.

    Args:
        prepared: the model.
        config: the options.
        candidates: gets what is known of the model's time.
        widths: the widths that groups may be given where no budget is on time.
        progress: told of measurements.
    """
    by_kind = _split(config.targets)
    exact = budgets(prepared.analysis, by_kind[False], prepared.before)
    if by_kind[True]:
        search = latency_search(prepared, config, candidates, progress)
        return Solver(
            lambda scores, branches: search.solve(
                scores, by_kind[True], exact, branches=branches, spend=config.max_drop is None
            ),
            Limits(prepared, exact, search.goal(by_kind[True])),
            timed=True,
        )
    allowed = widths()

    def solve(most_work: float | None) -> Solve:
        return lambda scores, branches: by_budget(
            *(prepared.analysis, scores, exact, allowed, config),
            branches=branches,
            most_work=most_work,
            spend=config.max_drop is None,
        )

    limits, kernels = Limits(prepared, exact, None), allowed.work
    whole = prepared.analysis.kept(prepared.analysis.none_removed())
    if kernels is None or not any(budget.name == _LIMITED and budget.cost(whole) > budget.limit for budget in exact):
        return Solver(solve(None), limits)

    def work(decision: Decision) -> float:
        kept = prepared.analysis.kept(decision.removed)
        sizes = (len(group) for group in prepared.analysis.groups)
        return kernels.table({g: np.unique(pair) for g, pair in enumerate(zip(kept, sizes, strict=True))})(kept)

    return Solver(solve(None), limits, leaner=solve, work=work)


def latency_search(
    prepared: Prepared, config: PruneConfig, candidates: Candidates, progress: Progress
) -> "LatencySearch":
    """What is known of the model's time; kernels are timed where this is the first budget of time.

    Arguments as in `solver_for`.
    """
    if candidates.search is None:
        from onnxprune.latency.search import LatencySearch
        from onnxprune.latency.target import timed

        whole = timed(prepared.analysis, config.latency, config.timing_engine, progress)
        step = config.round_to if isinstance(config.round_to, int) else 1
        choices = [whole.fast_widths(step)]
        if config.round_to == "kernel":
            choices.insert(0, whole.liked_together(choices[0], config.kernel_rule))
        candidates.search = LatencySearch(whole, choices, config)
    return candidates.search


def _split(targets: Sequence[Target]) -> Mapping[bool, list[Target]]:
    """Targets by whether their cost is measured."""
    return {
        measured: [target for target in targets if COST_KINDS[target.kind].measured == measured]
        for measured in (False, True)
    }


def rather_branches(solver: Solver, scores: Scores) -> bool:
    """Whether all candidates may lose whole branches.

    A single channel takes about as long as a block of them, so budgets of time want branches gone rather than narrow.
    """
    return solver.timed and any(score.whole for score in scores.groups)


def trials_wanted(solver: Solver, scores: Scores) -> int:
    """How many trials a decision is best made by: of every answer, and of the best again."""
    answers = 1 + len(_variants(solver, scores, plain=True))
    return answers + FINALS if solver.leaner is None else answers + LEANER + FINALS


def others(solver: Solver, scores: Scores, first: Decision | None, *, most: int) -> list[Answer]:
    """What the program answers to the scores' curves raised to other powers, then what it answers with whole branches.

    Before these, what it answers to cautious scores where its first answer goes below what was measured.

    Args:
        solver: decides.
        scores: the scores.
        first: what it answers to these; None where the budgets cannot be met without whole branches.
        most: how many answers at most.
    """
    variants = _variants(solver, scores, plain=first is not None)
    if first is not None and goes_beyond(first, solver):
        variants.insert(0, (scores.cautious(), False))
    answers = []
    for each, branches in variants[: max(0, most)]:
        with suppress(BudgetError):
            answers.append(Answer(solver.solve(each, branches), each, branches))
    return answers


def leaner(solver: Solver, answer: Answer, worth: float) -> list[Decision]:
    """What the program answers to the same curves with less work in the kernels, each with less than the one before.

    First with no more of it, then a few hundredths less at a time, as long as that is worth the damage.

    Args:
        solver: decides.
        answer: with any work.
        worth: times the predicted damage of the answer to the same curves with as much work that less may do.
    """
    if solver.leaner is None:
        return []
    found: dict[bytes, Decision] = {}
    least, work = solver.damage(answer.decision, answer.scores), solver.work(answer.decision)
    for step in range(_MOST_LESS):
        try:
            decision = solver.leaner(_LESS * work if step else work)(answer.scores, answer.branches)
        except BudgetError:
            break
        damage, work = solver.damage(decision, answer.scores), solver.work(decision)
        least = least if step else max(least, damage)  # fewer widths may do: those that are no slower than wider
        if damage > worth * least:
            break
        found.setdefault(decision.removed.tobytes(), decision)
    found.pop(answer.decision.removed.tobytes(), None)
    return [*found.values()]


def price(decision: Decision, scores: Scores, solver: Solver) -> float:
    """Predicted damage times work in the kernels: what is lost grows with about the square of the first."""
    return solver.damage(decision, scores) * max(solver.work(decision), 1.0)


def goes_beyond(decision: Decision, solver: Solver) -> bool:
    """Whether some group is left with less units than damage was measured at: a quarter, but under budgets of time."""
    groups = solver.limits.prepared.analysis.groups
    kept = solver.limits.prepared.analysis.kept(decision.removed)
    return not solver.timed and any(0 < 4 * width < len(group) for width, group in zip(kept, groups, strict=True))


def _variants(solver: Solver, scores: Scores, *, plain: bool) -> list[tuple[Scores, bool]]:
    """Scores that the program may answer to besides these, and whether whole branches may go."""
    raised = [scores.raised(power) for power in scores.powers]
    if rather_branches(solver, scores):
        return [(each, True) for each in raised]
    variants = [(each, False) for each in raised] if plain else []
    if any(score.whole for score in scores.groups):
        variants += [(each, True) for each in (scores, *raised)]
    return variants
