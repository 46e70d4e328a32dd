"""From scores to the units that go: by threshold, or by the allocation program to meet budgets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import AllocationProblem, Budget
from onnxprune.config import PruneConfig
from onnxprune.core.errors import InputError
from onnxprune.core.results import LatencyReport, ProgramReport
from onnxprune.core.scores import Scores
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Group, Ids


@dataclass(frozen=True, slots=True)
class Decision:
    """Which units go, and how that was decided.

    Attributes:
        removed: `(units,)` True where a unit goes.
        program: status of the allocation program; "none" where a threshold decided.
        predicted: cost per budget name.
        damage: predicted damage, summed over groups.
        latency: where there was a latency budget.
        notes: what the user should know.
    """

    removed: Ids
    program: ProgramReport
    predicted: Mapping[str, float]
    damage: float
    latency: LatencyReport | None = None
    notes: tuple[str, ...] = ()


def by_budget(
    analysis: Analysis,
    scores: Scores,
    budgets: Sequence[Budget],
    config: PruneConfig,
    *,
    minimum: Mapping[str, int] | None = None,
    allowed: Mapping[int, np.ndarray] | None = None,
) -> Decision:
    """Solve the allocation program and remove each group's least important units.

    Args:
        analysis: the analysed model.
        scores: order and damage curve of each group.
        budgets: all of them must hold.
        config: `round_to`, `keep` and `seed`.
        minimum: least number of kept units by group name.
        allowed: the widths that groups may be given, by group index; see `AllocationProblem`.

    Raises:
        BudgetError: no choice meets the budgets.
        SolverError: the solver failed.
    """
    problem = AllocationProblem(
        damage=tuple(score.damage for score in scores.groups),
        budgets=tuple(budgets),
        round_to=multiple(config),
        minimum=tuple((minimum or {}).get(group.name, 1) for group in analysis.groups),
        fixed=frozenset(index for index, group in enumerate(analysis.groups) if is_kept(group, config.keep)),
        allowed=allowed or {},
    )
    found = allocate(problem, seed=config.seed)
    removed = analysis.none_removed()
    for group, score, kept in zip(analysis.groups, scores.groups, found.kept, strict=True):
        removed[group.units[score.order[: len(group) - kept]]] = True
    return Decision(
        removed=removed,
        program=ProgramReport(found.status, found.objective, found.bound, found.gap, found.seconds),
        predicted={b.name: value for b, value in zip(budgets, found.predicted, strict=True)},
        damage=found.objective,
    )


def multiple(config: PruneConfig) -> int:
    """What kept widths are multiples of; 1 where it is `auto`."""
    return config.round_to if isinstance(config.round_to, int) else 1


def by_threshold(
    analysis: Analysis,
    scores: Scores,
    threshold: str,
    config: PruneConfig,
    *,
    allowed: Mapping[int, np.ndarray] | None = None,
) -> Decision:
    """Remove units whose score is below a fixed value, or below their group's mean.

    The best unit of each group stays; counts are rounded up to multiples of `round_to` or to the next allowed width.
    What goes without loss goes whatever the threshold.

    Raises:
        InputError: the threshold is neither a number in [0, 1] nor "mean".
    """
    fixed = None if threshold == "mean" else _number(threshold)
    removed = analysis.none_removed()
    damage = 0.0
    for index, (group, score) in enumerate(zip(analysis.groups, scores.groups, strict=True)):
        if is_kept(group, config.keep):
            continue
        limit = float(score.scores.mean()) if fixed is None else fixed
        values = score.scores.copy()
        values[score.order[: score.free]] = -1.0
        kept = _width(
            int(np.count_nonzero(values >= limit)), group, config, None if allowed is None else allowed[index]
        )
        order = np.argsort(values, kind="stable")
        removed[group.units[order[: len(group) - kept]]] = True
        damage += float(score.damage[kept])
    return Decision(removed, ProgramReport("none"), {}, damage)


def without_loss(
    analysis: Analysis, free: Ids, config: PruneConfig, *, allowed: Mapping[int, np.ndarray] | None = None
) -> Decision:
    """Remove what goes without loss, as far as `round_to` and the allowed widths let it.

    Args:
        analysis: the analysed model.
        free: `(units,)` True where a unit goes without loss.
        config: `round_to`.
        allowed: the widths that groups may be given, by group index.
    """
    removed = analysis.none_removed()
    for index, group in enumerate(analysis.groups):
        gone = group.units[free[group.units]]
        kept = _width(len(group) - len(gone), group, config, None if allowed is None else allowed[index])
        removed[gone[: len(group) - kept]] = True
    return Decision(removed, ProgramReport("none"), {}, 0.0)


def _width(least: int, group: Group, config: PruneConfig, allowed: np.ndarray | None) -> int:
    """The smallest width from `least` on that a group may be given."""
    kept = min(len(group), -(-max(1, least) // multiple(config)) * multiple(config))
    return kept if allowed is None else int(allowed[np.searchsorted(allowed, kept)])


def is_kept(group: Group, patterns: Sequence[str]) -> bool:
    """Whether a `--keep` pattern (a regular expression) matches the group's name or one of its producers.

    Raises:
        InputError: a pattern is not a regular expression.
    """
    for pattern in patterns:
        try:
            if any(re.search(pattern, name) for name in (group.name, *group.producers)):
                return True
        except re.error as error:
            raise InputError(f"--keep {pattern!r} is not a regular expression ({error})") from error
    return False


def without_match(analysis: Analysis, patterns: Sequence[str]) -> tuple[str, ...]:
    """The `--keep` patterns that match no group."""
    return tuple(pattern for pattern in patterns if not any(is_kept(group, (pattern,)) for group in analysis.groups))


def _number(threshold: str) -> float:
    try:
        value = float(threshold)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--threshold {threshold!r}: use a number from 0 to 1, or mean")
    return value
