"""Converts between removal masks and plans, which name groups and so fit other files of the same graph."""

from onnxprune.core.errors import InputError
from onnxprune.core.plan import PrunePlan
from onnxprune.core.scores import Scores
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.cut import find_cut
from onnxprune.structure.units import Ids


def make_plan(analysis: Analysis, removed: Ids, importance: str, scores: Scores | None, widths: str) -> PrunePlan:
    """The plan that describes a removal mask."""
    return PrunePlan(
        units={group.name: len(group) for group in analysis.groups},
        removed={
            group.name: tuple(int(p) for p in removed[group.units].nonzero()[0])
            for group in analysis.groups
            if removed[group.units].any()
        },
        importance=importance,
        scores={} if scores is None else {s.group: tuple(float(v) for v in s.scores) for s in scores.groups},
        widths=widths,
    )


def plan_mask(analysis: Analysis, plan: PrunePlan) -> Ids:
    """The removal mask that a plan describes.

    Raises:
        InputError: the plan belongs to another graph.
    """
    units = {group.name: len(group) for group in analysis.groups}
    if dict(plan.units) != units:
        odd = sorted(set(plan.units.items()) ^ set(units.items()))[0][0]
        raise InputError(f"the plan was made for another graph: group {odd!r} is not the same in {analysis.name}")
    for name, positions in plan.removed.items():
        if name not in units or any(not 0 <= p < units[name] for p in positions):
            raise InputError(f"the plan removes units of {name!r} that do not exist")
    removed = analysis.removal(plan.removed)
    whole = [group.name for group in analysis.groups if removed[group.units].all()]
    problem = find_cut(analysis, removed).problem if whole else None
    if problem is not None:
        raise InputError(
            f"the plan removes all units of {', '.join(map(repr, whole))}; not all of them can go: {problem}"
        )
    return removed
