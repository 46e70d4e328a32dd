"""Decides which units are removed, by targets or by a threshold; compares several candidate decisions by trial."""

from collections.abc import Sequence
from concurrent.futures import Executor

from onnxprune.allocation.decide import Decision, by_threshold
from onnxprune.allocation.widths import Widths
from onnxprune.config import PruneConfig
from onnxprune.core.clock import Clock, Progress
from onnxprune.core.errors import BudgetError, InputError
from onnxprune.core.scores import Scores
from onnxprune.pipeline.candidates import Candidates, Limits, others, rather_branches, solver_for
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.trials import best, judged, least_lost, on_fewer_rows, worthwhile
from onnxprune.structure.kernels import kernel_steps

DEFAULT_OAMIP_THRESHOLD = "0.1"


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
    found: list[Decision] = []
    missed: BudgetError | None = None
    with clock.stage("allocate"):
        solver = solver_for(prepared, config, candidates, lambda: allowed_widths(prepared, config, progress), progress)
        try:
            found.append(solver.solve(scores, rather_branches(solver, scores)))
        except BudgetError as error:
            missed = error
    trial = prepared if not solver.timed else on_fewer_rows(prepared)
    tried = bool(scores.powers) and worthwhile(trial, config)
    if missed is not None and not (tried and any(score.whole for score in scores.groups)):
        raise missed
    if not tried:
        return found[0]
    with clock.stage("trials"):
        found += others(solver, scores, plain=missed is None)
        if not found and missed is not None:
            raise missed
        return _best(trial, found, solver.limits, candidates, config, progress, executor)


def _best(
    prepared: Prepared,
    found: Sequence[Decision],
    limits: Limits,
    candidates: Candidates,
    config: PruneConfig,
    progress: Progress,
    executor: Executor | None,
) -> Decision:
    """The best of what was decided now and of what meets the budgets among earlier decisions."""
    if not candidates.shared:
        return best(prepared, found, config, progress, executor)
    fresh = {decision.removed.tobytes(): decision for decision in reversed(found)}
    fresh = {key: fresh[key] for key in reversed(fresh) if key not in candidates.judged}
    if fresh:
        new = list(fresh.values())
        candidates.add(new, judged(prepared, new, config, progress, executor))
    return least_lost(prepared, candidates.fitting(limits) or [(found[0], 0.0)])


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
        liked = kernel_steps(prepared.analysis, config.kernels)
        return Widths(sizes, liked.steps, liked.floors, f"kernel {config.kernels}")
    from onnxprune.latency.target import timed

    return timed(prepared.analysis, config, progress).fast_widths(config)
