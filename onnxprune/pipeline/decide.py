"""Decides which units are removed, by targets or by a threshold; compares several candidate decisions by trial."""

from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace

from onnxprune.allocation.decide import Decision, by_threshold
from onnxprune.allocation.widths import Widths
from onnxprune.allocation.work import KernelWork
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.scores import Scores
from onnxprune.pipeline.candidates import (
    Answer,
    Candidates,
    Solver,
    goes_beyond,
    leaner,
    price,
    rather_branches,
    solver_for,
    trials_wanted,
)
from onnxprune.pipeline.contest import by_trial
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.trials import FULL_COST, Trials, affordable, worthwhile
from onnxprune.structure.kernels import BLOCKED, kernel_steps

DEFAULT_OAMIP_THRESHOLD = "0.1"
_UNTRIED_WORTH = 1.05  # times the predicted damage that less work in the kernels may do where nothing is tried
_HELD_NOTE = (
    "the model is large: there were {} trials at most, where all allocations would have taken up to {}; fewer --images "
    "allow more"
)


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
        trial, most = affordable(prepared, wanted, 0 if solver.leaner is None else 4 * FULL_COST)
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
        chosen = by_trial(first, solver, scores, candidates, trials)
    if chosen is None:
        assert missed is not None  # there is no answer at all
        raise missed
    if most < wanted and not trials.left:
        return replace(chosen, notes=(*chosen.notes, _HELD_NOTE.format(most, wanted)))
    return chosen


def _untried(solver: Solver, scores: Scores) -> Decision:
    """What the program answers to measured damage where nothing is tried: to cautious scores where it goes beyond."""

    def best(each: Scores, branches: bool) -> Decision:
        first = solver.solve(each, branches)
        less = leaner(solver, Answer(first, each, branches), _UNTRIED_WORTH)
        return min((first, *less), key=lambda one: price(one, each, solver))

    chosen = best(scores, rather_branches(solver, scores))
    if goes_beyond(chosen, solver):
        with suppress(BudgetError):
            return best(scores.cautious(), False)
    return chosen


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
