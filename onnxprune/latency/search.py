"""Meets latency budgets: solves the allocation on measured kernel times, times the result, corrects, and repeats.

What a run takes of the original's time follows from kernel times and from all models that were timed beside it, so
that what no kernel shows (calls, conversions between them) is part of it (`latency.shares`). What one solution taught
serves the next: tables and times are kept for all scores and budgets of a run.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocation.decide import Decision, by_budget, narrowest
from onnxprune.allocation.options import AllocationOptions
from onnxprune.allocation.problem import Budget
from onnxprune.allocation.table import CostTable
from onnxprune.allocation.widths import Widths
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.results import LatencyReport
from onnxprune.core.scores import Scores
from onnxprune.core.targets import Target
from onnxprune.core.text import percent
from onnxprune.latency.cost import cost_table
from onnxprune.latency.shares import Shares
from onnxprune.latency.target import Timed
from onnxprune.structure.removal import remove
from onnxprune.structure.units import Ids

NOISE = 0.01
"""A result that misses its budget by less than this share is as good as the measurement."""
_ROUNDS = 6
# A budget that is met and used up to this is not worth another round.
_UNUSED = 0.03
# Share of a budget below which the user should know.
_SPENT = 0.9
_UNUSED_NOTE = (
    "only {} of the budget of time is used: of {} models that were timed, none that comes nearer is within it and "
    "does less damage; a slightly larger budget may lose much less"
)
# Where the table and the summed kernels differ by more, the table is expanded anew around the result.
_EXPANSION_ERROR = 0.02
# Where kernels tell more or less than the saved time of the fastest model by this share of it, groups are asked one by
# one what they save, where there are so few.
_UNTOLD, _FEW_GROUPS = 0.1, 12
_BUDGET = "latency"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Try:
    """A decision that was built and timed beside the original.

    Attributes:
        decision: what was removed.
        kept: width per group.
        kernels: summed times of its kernels, in microseconds.
        ratio: its time relative to the original's.
        before: the original's time in the same rounds, in milliseconds.
    """

    decision: Decision
    kept: tuple[int, ...]
    kernels: float
    ratio: float
    before: float

    def fits(self, goal: float) -> bool:
        return self.ratio <= goal * (1 + NOISE)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Scores, budgets beside that of time, the share of the original's time, and whether branches may go."""

    scores: Scores
    budgets: tuple[Budget, ...]
    goal: float
    branches: bool


class LatencySearch:
    """Solves the allocation within latency budgets, for any number of scores and budgets of one model.

    Args:
        whole: the original.
        widths: those that groups may be given; larger choices follow, for budgets that the first do not meet.
        options: of the program.
    """

    def __init__(self, whole: Timed, widths: Sequence[Widths], options: AllocationOptions) -> None:
        self._whole, self._options = whole, options
        self._choices = [replace(each, strict=True) for each in widths]  # a table knows no others
        self._shares = Shares(whole.full, whole.times.total(whole.full))
        self._tables: dict[tuple[int, bool], CostTable] = {}
        self._timed: dict[tuple[int, ...], tuple[float, float]] = {}
        self._last: dict[tuple[int, bool], _Try] = {}
        self._before_ms: float | None = None
        self._asked = False
        self._twice: set[tuple[int, ...]] = set()

    def goal(self, targets: Sequence[Target]) -> float:
        """The share of the original's time that the smallest of some latency targets asks for.

        Raises:
            InputError: a latency target for some layers only.
        """
        return min(self._share(target) for target in targets)

    def solve(
        self,
        scores: Scores,
        targets: Sequence[Target],
        budgets: Sequence[Budget],
        *,
        branches: bool = False,
        spend: bool = True,
    ) -> Decision:
        """Choose widths that meet latency targets together with other budgets.

        Nothing is refused on a prediction: the fastest model is built and timed first.

        Args:
            scores: order and damage curve of each group.
            targets: the latency targets; the smallest counts.
            budgets: other budgets.
            branches: whether whole branches may go.
            spend: whether the targets are the user's, who is told where much of them is not used.

        Raises:
            InputError: a latency target for some layers only.
            BudgetError: a budget cannot be met; of the latency, as measured.
            SolverError: the solver failed.
        """
        problem = _Problem(scores, tuple(budgets), self.goal(targets), branches)
        for number in range(len(self._choices)):
            try:
                return self._solve(problem, number, spend=spend)
            except BudgetError as error:
                missed = error
        raise missed

    def _solve(self, problem: _Problem, number: int, *, spend: bool) -> Decision:
        """Choose among the widths of one choice; errors as in `solve`."""
        goal, branches, widths = problem.goal, problem.branches, self._choices[number]
        whole = self._whole
        fastest = self._try(narrowest(whole.analysis, problem.scores, widths, self._options, branches=branches))
        if not fastest.fits(goal):
            raise BudgetError(
                f"budget cannot be met: the fastest model takes {100 * fastest.ratio:.1f} % of the original's "
                f"{fastest.before:.3g} ms, measured side by side (asked for at most {100 * goal:.1f} %); raise the "
                "target, or, where given, lower --round-to and leave out --keep and --no-branches"
            )
        self._ask(fastest, widths)
        last, table = self._last.get((number, branches), fastest), self._table(number, branches)
        tries = self._rounds(problem, widths, table, last, fastest)
        best = self._best(tries, goal, fastest)
        if best is fastest and tries and best.ratio < goal * _SPENT:
            # Around the original, little may be told of kernels that many groups meet at.
            table = cost_table(whole.times, fastest.kept, table.widths)
            tries += self._rounds(problem, widths, table, fastest, fastest)
            best = self._best(tries, goal, fastest)
        self._last[number, branches] = best
        decision = self._reported(best, goal, max(1, len(tries)))
        if not spend or best.ratio >= goal * _SPENT or not decision.damage:
            return decision
        note = _UNUSED_NOTE.format(percent(best.ratio / goal, 0), len(self._timed))
        return replace(decision, notes=(*decision.notes, note))

    def _rounds(self, problem: _Problem, widths: Widths, table: CostTable, last: _Try, fastest: _Try) -> list[_Try]:
        """Solve the program, time its answer, correct what was predicted, and repeat.

        Args:
            problem: what to meet.
            widths: those that groups may be given.
            table: times of kernels, to begin with.
            last: a model that was timed, at which the first prediction is exact.
            fastest: the fastest model.
        """
        whole, goal, options = self._whole, problem.goal, self._options
        tries: list[_Try] = []
        for _ in range(_ROUNDS):
            cost = self._told(table, last, fastest, goal)
            budget = Budget(_BUDGET, cost, max(goal, cost(fastest.kept)))
            given = whole.analysis, problem.scores, [*problem.budgets, budget], widths, options
            try:
                decision = by_budget(*given, branches=problem.branches)
            except BudgetError:
                if _reachable(whole, problem, widths, options):
                    break
                raise
            known = {each.kept for each in tries}
            last = self._try(decision)
            ends = last.ratio >= goal * (1 - _UNUSED) or last.kept in known
            if last.fits(goal) and ends:
                last = self._again(last)
            tries.append(last)
            _log.debug("latency: predicted %.3f, measured %.3f", decision.predicted[_BUDGET], last.ratio)
            if last.fits(goal) and ends:
                break
            if abs(table(last.kept) / max(last.kernels, 1e-9) - 1) > _EXPANSION_ERROR:
                table = cost_table(whole.times, last.kept, table.widths)
        return tries

    def _told(self, table: CostTable, last: _Try, fastest: _Try, goal: float) -> CostTable:
        """The predicted share of the original's time; exact at the last model.

        Where the fastest model would not meet the goal by that, as it does, exact for this one and the original.
        """
        cost = self._shares.cost(table, last.kept)
        whole, least = cost(self._whole.full), cost(fastest.kept)
        if least <= goal or whole <= least:
            return cost
        scale = (1 - fastest.ratio) / (whole - least)
        return cost.affine(scale, 1 - scale * whole)

    def timed(self, decision: Decision) -> Decision:
        """What was decided without regard to time, with its time beside the original's."""
        found = self._try(decision)
        return self._reported(found, found.ratio, 1)

    def _reported(self, best: _Try, goal: float, rounds: int) -> Decision:
        report = LatencyReport(
            before=best.before,
            predicted=best.decision.predicted.get(_BUDGET, best.ratio) * best.before,  # the fastest is never predicted
            measured=best.ratio * best.before,
            batch=self._whole.settings.batch,
            threads=self._whole.engine.threads,
            rounds=rounds,
            provider=str(self._whole.engine.provider),
            asked=goal,
        )
        return replace(best.decision, latency=report)

    def _share(self, target: Target) -> float:
        if target.layers is not None:
            raise InputError(
                f"target {str(target)!r}: a latency budget holds for the whole model; leave out the layers"
            )
        if target.is_share:
            return target.value
        if self._before_ms is None:
            self._before_ms, _ = self._whole.beside(self._whole.analysis.model)
        return target.value / (1e3 * self._before_ms)

    def _table(self, number: int, branches: bool) -> CostTable:
        """Times over the groups' widths of one choice, in microseconds; with width 0 where branches may go."""
        if (number, branches) not in self._tables:
            chosen = self._choices[number].chosen
            widths = {g: np.append(0, own) if branches else own for g, own in chosen.items()}
            self._tables[number, branches] = cost_table(self._whole.times, self._whole.full, widths)
        return self._tables[number, branches]

    def _ask(self, fastest: _Try, widths: Widths) -> None:
        """Time the model whose groups are all a step narrower, and each group so alone, where kernels tell too little.

        Args:
            fastest: the fastest model, of which kernels have told so much.
            widths: those that groups may be given.
        """
        saved, told = 1 - fastest.ratio, self._shares.saved(fastest.kernels)
        if self._asked or abs(saved - told) <= _UNTOLD * saved:
            return
        self._asked = True
        full, chosen = self._whole.full, widths.chosen
        narrower = {g: int(chosen[g][-2]) for g, k in enumerate(fastest.kept) if k < full[g] and len(chosen[g]) > 1}
        wanted = [narrower, *({g: k} for g, k in narrower.items() if len(narrower) <= _FEW_GROUPS)]
        for kept in dict.fromkeys(tuple(widths.get(g, n) for g, n in enumerate(full)) for widths in wanted):
            removed = self._whole.analysis.none_removed()
            for group, k in zip(self._whole.analysis.groups, kept, strict=True):
                removed[group.units[k:]] = True
            self._timed[kept] = self._time(removed)
            self._shares.learn(kept, self._whole.times.total(kept), self._timed[kept][1])

    def _try(self, decision: Decision) -> _Try:
        """Build what was decided, and time it beside the original; equal widths are timed once."""
        kept = self._whole.analysis.kept(decision.removed)
        if kept not in self._timed:
            self._timed[kept] = self._time(decision.removed)
        before, ratio = self._timed[kept]
        kernels = self._whole.times.total(kept)
        self._shares.learn(kept, kernels, ratio)
        return _Try(decision, kept, kernels, ratio, before)

    def _best(self, tries: Sequence[_Try], goal: float, fastest: _Try) -> _Try:
        """The try of least damage that meets the budget, timed twice; the fastest model where there is none."""
        while True:
            met = [each for each in (self._try(tried.decision) for tried in tries) if each.fits(goal)]
            best = min(met, key=lambda each: each.decision.damage, default=fastest)
            if best is fastest or best.kept in self._twice:
                return best
            self._again(best)

    def _again(self, tried: _Try) -> _Try:
        """Time a model once more: of many models near a budget, the one that happened to look fast would be taken."""
        if tried.kept not in self._twice:
            self._twice.add(tried.kept)
            before, ratio = self._time(tried.decision.removed)
            self._timed[tried.kept] = (before + tried.before) / 2, (ratio + tried.ratio) / 2
        return self._try(tried.decision)

    def _time(self, removed: Ids) -> tuple[float, float]:
        return self._whole.beside(remove(self._whole.analysis, removed))


def _reachable(whole: Timed, problem: _Problem, widths: Widths, options: AllocationOptions) -> bool:
    """Whether the other budgets alone can be met."""
    try:
        by_budget(whole.analysis, problem.scores, problem.budgets, widths, options, branches=problem.branches)
    except BudgetError:
        return False
    return True
