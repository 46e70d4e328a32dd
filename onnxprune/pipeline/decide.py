"""Decides which units are removed, by targets or by a threshold; compares several candidate decisions by trial."""

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from onnxprune.allocation.decide import Decision, by_threshold
from onnxprune.allocation.widths import Widths
from onnxprune.allocation.work import KernelWork
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.scores import Scores
from onnxprune.pipeline.candidates import (
    Candidates,
    Solver,
    around,
    goes_beyond,
    others,
    rather_branches,
    solver_for,
    trials_wanted,
)
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.trials import FULL_COST, Loss, Trials, affordable, least_lost, worthwhile
from onnxprune.structure.kernels import BLOCKED, kernel_steps

DEFAULT_OAMIP_THRESHOLD = "0.1"
# Times the damage that less work in the kernels may do: predicted; measured with a quick repair, which narrow layers
# gain less from; with a full one; and predicted where nothing is tried.
_PREDICTED_WORTH = 1.25
_HOPEFUL = 2.0
_WORTH = 1.1
_UNTRIED_WORTH = 1.05
_LEAN_NOTE = (
    "widths keep the work of the kernels down too, at hardly any loss by trial, so that less than the budget may be "
    "left; --round-to 1 spends the budget whole"
)
_HELD_NOTE = (
    "the model is large: trials took the work of {} quick ones at most (one with full repair takes that of {}), where "
    "all allocations would have taken up to {}; fewer --images allow more"
)
_AROUND = 4  # further answers with less work in the kernels that are tried
_RATE = 2  # power of the work that losses by trial are weighed with; a smaller budget's loss grows with more
_SLIGHT = 0.001  # divergence (nats, or a share of the values' variance) that may be lost more whatever the share


def decide(
    prepared: Prepared,
    scores: Scores,
    config: PruneConfig,
    clock: Clock,
    progress: Progress,
    executor: Executor | None = None,
    candidates: Candidates | None = None,
) -> Decision:
    """Choose the units to remove. Where the scorer asks for it, several decisions are tried and the best is taken.

    Args:
        prepared: the model.
        scores: of all groups.
        config: the budgets, and all other options.
        clock: times of the stages.
        progress: told of steps.
        executor: where trials run; by default where `config.executor` says.
        candidates: what was decided for other budgets of this run; extended.

    Raises:
        InputError: there is neither a budget nor a threshold, or both.
        BudgetError: the budgets cannot be met.
        SolverError: the solver failed.
    """
    threshold = _threshold(config)
    if threshold is not None:
        with clock.stage("allocate"):
            return by_threshold(
                prepared.analysis, scores, threshold, allowed_widths(prepared, config, progress), config
            )
    candidates = Candidates() if candidates is None else candidates
    first: Decision | None = None
    missed: BudgetError | None = None
    with clock.stage("allocate"):
        solver = solver_for(prepared, config, candidates, lambda: allowed_widths(prepared, config, progress), progress)
        possible, wanted = bool(scores.powers) and worthwhile(prepared, config), trials_wanted(solver, scores)
        trial, most = affordable(prepared, wanted, _AROUND if solver.leaner is not None else 0)
        tried = possible and most > 1
        if not tried and scores.powers:  # only measured damage tells what less work costs
            return _untried(solver, scores)
        try:
            first = solver.solve(scores, rather_branches(solver, scores))
        except BudgetError as error:
            if not (tried and any(score.whole for score in scores.groups)):
                raise
            missed = error
    if not tried and first is not None:
        return first
    with clock.stage("trials"), Trials(trial, config, progress, executor, most=most) as trials:
        chosen = _by_trial(first, solver, scores, candidates, trials)
    if chosen is None:
        assert missed is not None  # there is no answer at all
        raise missed
    if most < wanted and trials.left < 2 * FULL_COST + 2:
        return replace(chosen, notes=(*chosen.notes, _HELD_NOTE.format(most, FULL_COST, wanted)))
    return chosen


def _untried(solver: Solver, scores: Scores) -> Decision:
    """What the program answers to measured damage where nothing is tried: to cautious scores where it goes beyond."""
    solve = solver.solve if solver.leaner is None else solver.leaner(_UNTRIED_WORTH, None)
    first = solve(scores, rather_branches(solver, scores))
    if goes_beyond(first, solver):
        with suppress(BudgetError):
            return solve(scores.cautious(), False)
    return first


def _by_trial(
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
    judge = partial(_judge, trials, candidates)
    decisions, lean = _answers(first, solver, scores, candidates, trials)
    if not decisions:
        return None
    if not candidates.shared and len({decision.removed.tobytes() for decision in (*decisions, *lean)}) == 1:
        return decisions[0]
    plain, leans = ([*zip(each, judge(each), strict=True)] for each in (decisions, lean))
    best = min(plain, key=lambda one: one[1].mean)
    leanest = _leanest(leans, best, solver)
    if leanest is not None and not _is_worth(best, leanest, solver, trials):
        leanest = None
    taken = plain if leanest is None else [leanest]
    dropped = {decision.removed.tobytes(): (decision, loss) for decision, loss in (*plain, *leans)} if lean else {}
    for decision, _ in dropped.values():
        candidates.drop(decision)
    for decision, loss in taken:
        dropped.pop(decision.removed.tobytes(), None)
        candidates.add([decision], [loss])
    fitting = candidates.fitting(solver.limits) or [best]
    if leanest is None:
        return least_lost(fitting, trials.rows)
    chosen = least_lost(fitting, trials.rows, [loss for _, loss in dropped.values()], lean=leanest[0])
    if np.array_equal(chosen.removed, leanest[0].removed):
        return replace(chosen, notes=(*chosen.notes, _LEAN_NOTE))
    return chosen


def _answers(
    first: Decision | None,
    solver: Solver,
    scores: Scores,
    candidates: Candidates,
    trials: Trials,
) -> tuple[list[Decision], list[Decision]]:
    """The answers to try: whatever the kernels do, and those with less work in them, as many as trials may be made.

    Args:
        first: what the program answers to the scores; None where it has no answer without whole branches.
        solver: decides.
        scores: the scores.
        candidates: what was tried before; extended.
        trials: tell how much decisions lose.
    """
    if first is None:
        return others(solver, scores, None, most=trials.left), []
    if solver.leaner is None:
        untried = first.removed.tobytes() not in candidates.judged
        return [first, *others(solver, scores, first, most=trials.left - untried)], []
    leaner = replace(solver, solve=solver.leaner(_PREDICTED_WORTH, None))
    lean, hopeful = [leaner.solve(scores, False)], False
    if np.array_equal(lean[0].removed, first.removed):
        lean = []
    else:
        of_first, of_lean = _judge(trials, candidates, [first, *lean])
        hopeful = of_lean.is_near(of_first, _HOPEFUL, _SLIGHT)
    most = trials.left - (2 * FULL_COST if lean and trials.left > 2 * FULL_COST else 0)  # see `_is_worth`
    untried = first.removed.tobytes() not in candidates.judged
    decisions = [first, *others(solver, scores, first, most=most - untried)]
    if hopeful:
        lean += others(leaner, scores, lean[0], most=most + 1 - len(decisions))
    if lean:
        further = most + 2 - len(decisions) - len(lean) - 2 * FULL_COST
        lean += around(solver, scores, _PREDICTED_WORTH, [*decisions, *lean], most=min(_AROUND, further))
    return decisions, lean


def _leanest(
    lean: Sequence[tuple[Decision, Loss]], plain: tuple[Decision, Loss], solver: Solver
) -> tuple[Decision, Loss] | None:
    """Of decisions with less work in the kernels, the best for its loss and work; None where all lose far too much.

    Where none is worth its loss by a quick repair, it is the one that loses least: a full one may show it to be.

    Args:
        lean: with their losses.
        plain: the best decision whatever the kernels do, with its loss.
        solver: knows the work.
    """
    worth = [one for one in lean if one[1].is_near(plain[1], _worth(plain[0], one[0], solver), _SLIGHT)]
    if worth:
        return min(worth, key=lambda one: max(one[1].mean, _SLIGHT) * solver.work(one[0]) ** _RATE)
    hopeful = [one for one in lean if one[1].is_near(plain[1], _HOPEFUL, _SLIGHT)]
    return min(hopeful, key=lambda one: one[1].mean, default=None)


def _worth(plain: Decision, lean: Decision, solver: Solver) -> float:
    """Times the loss by trial that less work in the kernels is worth."""
    return min(_WORTH, max(1.0, solver.work(plain) / max(solver.work(lean), 1.0)) ** _RATE)


def _is_worth(plain: tuple[Decision, Loss], lean: tuple[Decision, Loss], solver: Solver, trials: Trials) -> bool:
    """Whether less work in the kernels is worth what it loses; where it loses more, twice as many rows tell.

    Args:
        plain: the best decision whatever the kernels do, with its loss.
        lean: the best with less work in them, with its loss.
        solver: knows the work.
        trials: tell how much both lose on other rows, and with a full repair, where there may be as many.
    """
    worth = _worth(plain[0], lean[0], solver)
    losses = plain[1], lean[1]
    full = not lean[1].is_near(plain[1], worth, _SLIGHT)  # which it would gain more from
    cost = 2 * FULL_COST if full else 2
    if full:
        if trials.left < cost:
            return False
        of_plain, of_lean = trials.losses([plain[0], lean[0]], full=True)
        if not of_lean.is_near(of_plain, worth, _SLIGHT):
            return False
        losses = of_plain, of_lean
    if losses[1].is_near(losses[0], 1.0, 0.0):
        return True
    if trials.left < cost:
        return not full
    again = trials.losses([plain[0], lean[0]], full=full, again=True)
    return (losses[1] + again[1]).is_near(losses[0] + again[0], worth, 2 * _SLIGHT)


def _judge(trials: Trials, candidates: Candidates, decisions: Sequence[Decision]) -> list[Loss]:
    """How much decisions lose by trial; those that were judged before are not judged again."""
    fresh = {decision.removed.tobytes(): decision for decision in reversed(decisions)}
    new = [fresh[key] for key in reversed(fresh) if key not in candidates.judged]
    if new:
        candidates.add(new, trials.losses(new))
    return [candidates.judged[decision.removed.tobytes()][1] for decision in decisions]


def _threshold(config: PruneConfig) -> str | None:
    """The threshold that decides; None where budgets do.

    Raises:
        InputError: there is neither, or both.
    """
    threshold = config.threshold
    if threshold is None and not config.targets and config.importance == "oamip":
        threshold = DEFAULT_OAMIP_THRESHOLD
    if config.targets and threshold is not None:
        raise InputError("give either --target or --threshold, not both")
    if not config.targets and threshold is None:
        raise InputError("say how small the model must get, for example --target macs=0.5 (or --max-drop, --threshold)")
    return threshold


def allowed_widths(prepared: Prepared, config: PruneConfig, progress: Progress) -> Widths:
    """The widths that the option `--round-to` allows."""
    sizes = tuple(len(group) for group in prepared.analysis.groups)
    if isinstance(config.round_to, int):
        return Widths.multiples(sizes, config.round_to)
    if config.round_to == "kernel":
        liked, alone = (kernel_steps(prepared.analysis, config.kernel_rule, sums=sums) for sums in (True, False))
        blocked = BLOCKED.get(config.kernel_rule)
        work = None if blocked is None else KernelWork(prepared.analysis, blocked)
        finer = None if alone == liked else (alone.steps, alone.floors)
        rule = f"kernel {config.kernel_rule}"
        return Widths(sizes, liked.steps, liked.floors, rule, work=work, alone=finer, bound=liked.bound)
    from onnxprune.latency.target import timed

    return timed(prepared.analysis, config.latency, config.timing_engine, progress).fast_widths()
