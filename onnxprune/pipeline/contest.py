"""Chooses among the program's answers by trial: which loses least, and whether less work in the kernels is worth more.

Few rows judge, and what a fit to few rows leaves is chance too. So the answers near the best are tried once more,
fitted to and judged on other rows, and both trials together decide.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnxprune.allocation.decide import Decision
from onnxprune.core.scores import Scores
from onnxprune.pipeline.candidates import (
    FINALS,
    LEANER,
    Answer,
    Candidates,
    Solver,
    leaner,
    others,
    price,
    rather_branches,
)
from onnxprune.pipeline.trials import FULL_COST, Loss, Trials, least_lost

# Times the damage that less work in the kernels may do: predicted; measured with a quick repair, which narrow layers
# gain less from; and with a full one.
_PREDICTED_WORTH = 1.25
_HOPEFUL = 2.0
_WORTH = 1.1
_RATE = 2  # power of the work that losses by trial are weighed with; a smaller budget's loss grows with more
_SLIGHT = 0.001  # divergence (nats, or a share of the values' variance) that may be lost more whatever the share
_CLOSE = 1.3  # times the least loss that is tried again
_CURVES = 2  # the powers of the curves, the best by trial, that are answered to with less work
_LEAN_NOTE = (
    "widths keep the work of the kernels down too, at hardly any loss by trial, so that less than the budget may be "
    "left; --round-to 1 spends the budget whole"
)

_Tried = tuple[Decision, Loss]


def by_trial(
    first: Decision | None, solver: Solver, scores: Scores, candidates: Candidates, trials: Trials
) -> Decision | None:
    """The decision that loses least by trial; None where the budgets cannot be met.

    Args:
        first: what the program answers to the scores; None where it has no answer without whole branches.
        solver: decides.
        scores: the scores.
        candidates: what was tried before; extended.
        trials: tell how much decisions lose.
    """
    plain, lean = _answers(first, solver, scores, candidates, trials)
    if not plain:
        return None
    if not candidates.shared and len({decision.removed.tobytes() for decision in (*plain, *lean)}) == 1:
        return plain[0]
    of_plain, of_lean = ([*zip(each, _judge(trials, candidates, each), strict=True)] for each in (plain, lean))
    (chosen, loss), rows, is_lean = winner(of_plain, of_lean, solver, trials)
    # What lost against it is no candidate for other budgets of the run either.
    lost = [*of_lean, *(one for one in of_plain if is_lean or one[1].mean < loss.mean)]
    for decision, _ in ((chosen, loss), *lost):
        candidates.drop(decision)
    candidates.add([chosen], [loss])
    gone = {one.removed.tobytes(): other for one, other in lost if one.removed.tobytes() not in candidates.judged}
    fitting = candidates.fitting(solver.limits) or [(chosen, loss)]
    found = least_lost(fitting, rows, [*gone.values()], lean=chosen if is_lean else None)
    if is_lean and np.array_equal(found.removed, chosen.removed):
        return replace(found, notes=(*found.notes, _LEAN_NOTE))
    return found


def _answers(
    first: Decision | None, solver: Solver, scores: Scores, candidates: Candidates, trials: Trials
) -> tuple[list[Decision], list[Decision]]:
    """The answers to try: whatever the kernels do, and those with less work in them, as many as trials may be made.

    Arguments as in `by_trial`.
    """
    if first is None:
        return [answer.decision for answer in others(solver, scores, None, most=trials.left)], []
    start = Answer(first, scores, rather_branches(solver, scores))
    of_start, hopeful = leaner(solver, start, _PREDICTED_WORTH), False
    lean = sorted(of_start, key=lambda one: price(one, scores, solver))[:1]
    if lean:
        of_first, of_lean = _judge(trials, candidates, [first, *lean])
        hopeful = of_lean.is_near(of_first, _HOPEFUL, _SLIGHT)
    left = trials.left - (first.removed.tobytes() not in candidates.judged)
    final = 2 if left > 2 else 0  # two trials more tell more than as many answers
    plain = [start, *others(solver, scores, first, most=left - final)]
    if hopeful:
        losses = _judge(trials, candidates, [answer.decision for answer in plain])
        best = [plain[number] for number in sorted(range(len(plain)), key=lambda number: losses[number].mean)[:_CURVES]]
        more = {
            one.removed.tobytes(): one
            for answer in best
            for one in (of_start if answer is start else leaner(solver, answer, _PREDICTED_WORTH))
        }
        for known in (*(answer.decision for answer in best), *lean):
            more.pop(known.removed.tobytes(), None)
        most = max(0, min(trials.left - final, LEANER - 1))
        lean += sorted(more.values(), key=lambda one: price(one, best[0].scores, solver))[:most]
    return [answer.decision for answer in plain], lean


def winner(plain: Sequence[_Tried], lean: Sequence[_Tried], solver: Solver, trials: Trials) -> tuple[_Tried, int, bool]:
    """The best decision with its loss, on how many rows that was found, and whether it is one with less work.

    Args:
        plain: decisions whatever the kernels do, with their losses.
        lean: those with less work in them.
        solver: knows the work.
        trials: tell how much they lose on other rows too, and with a full repair.
    """
    plain = sorted(_apart(plain), key=lambda one: one[1].mean)
    best = plain[0]
    near = [one for one in plain if one[1].mean <= max(_CLOSE * best[1].mean, best[1].mean + _SLIGHT)]
    worth = _worthwhile(lean, best, solver)
    if not worth:
        hopeful = [one for one in _apart(lean) if one[1].is_near(best[1], _HOPEFUL, _SLIGHT)]
        closest = min(hopeful, key=lambda one: one[1].mean, default=None)
        if closest is not None and _is_worth_repaired(best, closest, solver, trials):
            return closest, trials.rows, True
    rows, most = trials.rows, min(FINALS, trials.left)
    lean = worth[: most // 2]
    finalists = [*lean, *near][:most]
    if len(finalists) > 1:
        again = trials.losses([decision for decision, _ in finalists], again=True)
        both = [(one, loss.both(more)) for (one, loss), more in zip(finalists, again, strict=True)]
        best = min(both[len(lean) :], key=lambda one: one[1].mean)
        worth, rows = _worthwhile(both[: len(lean)], best, solver), 2 * rows
    return (worth[0], rows, True) if worth else (best, rows, False)


def _apart(tried: Sequence[_Tried]) -> list[_Tried]:
    """Each decision once."""
    return [*{decision.removed.tobytes(): (decision, loss) for decision, loss in reversed(tried)}.values()][::-1]


def _worthwhile(lean: Sequence[_Tried], plain: _Tried, solver: Solver) -> list[_Tried]:
    """Those with less work in the kernels that are worth what they lose, the best for its loss and work first."""
    worth = [one for one in _apart(lean) if one[1].is_near(plain[1], _worth(plain[0], one[0], solver), _SLIGHT)]
    return sorted(worth, key=lambda one: max(one[1].mean, _SLIGHT) * solver.work(one[0]) ** _RATE)


def _worth(plain: Decision, lean: Decision, solver: Solver) -> float:
    """Times the loss by trial that less work in the kernels is worth."""
    return min(_WORTH, max(1.0, solver.work(plain) / max(solver.work(lean), 1.0)) ** _RATE)


def _is_worth_repaired(plain: _Tried, lean: _Tried, solver: Solver, trials: Trials) -> bool:
    """Whether less work in the kernels is worth what it loses behind a full repair, which it may gain more from.

    Where it loses more, twice as many rows tell. Arguments as in `winner`.
    """
    cost, worth = 2 * FULL_COST, _worth(plain[0], lean[0], solver)
    if trials.left < cost:
        return False
    full = partial(trials.losses, [plain[0], lean[0]], full=True)
    of_plain, of_lean = full()
    if not of_lean.is_near(of_plain, worth, _SLIGHT):
        return False
    if of_lean.is_near(of_plain, 1.0, 0.0):
        return True
    if trials.left < cost:
        return False
    again = full(again=True)
    return of_lean.both(again[1]).is_near(of_plain.both(again[0]), worth, _SLIGHT)


def _judge(trials: Trials, candidates: Candidates, decisions: Sequence[Decision]) -> list[Loss]:
    """How much decisions lose by trial; those that were judged before are not judged again."""
    fresh = {decision.removed.tobytes(): decision for decision in reversed(decisions)}
    new = [fresh[key] for key in reversed(fresh) if key not in candidates.judged]
    if new:
        candidates.add(new, trials.losses(new))
    return [candidates.judged[decision.removed.tobytes()][1] for decision in decisions]
