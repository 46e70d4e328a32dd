"""Decides which units are removed, by targets or by a threshold; compares several candidate decisions by trial."""

from collections.abc import Callable
from concurrent.futures import Executor

from onnxprune.allocation.costs import budgets
from onnxprune.allocation.decide import Decision, by_budget, by_threshold
from onnxprune.allocation.widths import Widths
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.core.costs import COST_KINDS
from onnxprune.core.errors import InputError
from onnxprune.core.scores import Scores
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.trials import best, worthwhile
from onnxprune.structure.kernels import kernel_steps

DEFAULT_OAMIP_THRESHOLD = "0.1"


def decide(
    prepared: Prepared,
    scores: Scores,
    config: PruneConfig,
    clock: Clock,
    progress: Progress,
    executor: Executor | None = None,
) -> Decision:
    """Choose the units to remove. Where the scorer asks for it, several decisions are tried and the best is taken.

    Raises:
        InputError: neither is given.
        BudgetError: the budgets cannot be met.
        SolverError: the solver failed.
    """
    with clock.stage("allocate"):
        solve = _solver(prepared, config, progress)
        found = solve(scores)
    by_program_alone = config.threshold is None and found.latency is None
    if not (scores.powers and by_program_alone and worthwhile(prepared, config)):
        return found
    with clock.stage("trials"):
        others = [solve(scores.raised(power)) for power in scores.powers]
        if any(score.whole for score in scores.groups):
            powers = [scores, *(scores.raised(power) for power in scores.powers)]
            with_branches = _solver(prepared, config, progress, branches=True)
            others += [with_branches(raised) for raised in powers]
        return best(prepared, [found, *others], config, progress, executor)


def _solver(
    prepared: Prepared, config: PruneConfig, progress: Progress, *, branches: bool = False
) -> Callable[[Scores], Decision]:
    """How the options say that scores become a decision.

    Args:
        prepared: the model.
        config: the options.
        progress: told of measurements.
        branches: whether whole branches may go.
    """
    threshold = config.threshold
    if threshold is None and not config.targets and config.importance == "oamip":
        threshold = DEFAULT_OAMIP_THRESHOLD
    if config.targets and threshold is not None:
        raise InputError("give either --target or --threshold, not both")
    if not config.targets and threshold is None:
        raise InputError("say how small the model must get, for example --target macs=0.5 (or --max-drop, --threshold)")
    latency = [target for target in config.targets if COST_KINDS[target.kind].measured]
    exact = budgets(prepared.analysis, [target for target in config.targets if target not in latency], prepared.before)
    if latency:
        from onnxprune.latency.target import by_latency, timed

        whole = timed(prepared.analysis, config, progress)
        return lambda scores: by_latency(whole, scores, latency, exact, config)
    widths = allowed_widths(prepared, config, progress)
    if threshold is not None:
        return lambda scores: by_threshold(prepared.analysis, scores, threshold, widths, config)
    return lambda scores: by_budget(prepared.analysis, scores, exact, widths, config, branches=branches)


def allowed_widths(prepared: Prepared, config: PruneConfig, progress: Progress) -> Widths:
    """The widths that the option `--round-to` allows."""
    sizes = tuple(len(group) for group in prepared.analysis.groups)
    if isinstance(config.round_to, int):
        return Widths.multiples(sizes, config.round_to)
    if config.round_to == "kernel":
        liked = kernel_steps(prepared.analysis, config.kernels)
        return Widths(sizes, liked.steps, liked.floors, f"kernel {config.kernels}")
    from onnxprune.latency.target import timed

    return timed(prepared.analysis, config, progress).fast_widths(config)
