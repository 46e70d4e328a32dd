"""Refuses models in which nothing, or with `--strict` not everything, can be pruned, and says why."""

from onnxprune.core.errors import ModelError
from onnxprune.core.text import visible
from onnxprune.structure.analysis import Analysis

_SHOWN = 3  # reasons in a message


def require_understood(analysis: Analysis) -> None:
    """Refuse a model where channels cannot be pruned because an operator is not supported.

    Raises:
        ModelError: says where, and how many such places there are.
    """
    obstacles = [item for item in analysis.not_pruned if item.limitation]
    if obstacles:
        first = obstacles[0]
        raise ModelError(
            f"{analysis.name}: {first.tensor!r} cannot be pruned: {first.reason} (node {first.node!r}); "
            f"{len(obstacles)} such tensors in all; leave out --strict to keep their channels"
        )


def require_prunable(analysis: Analysis) -> None:
    """Refuse a model in which nothing can be pruned.

    Raises:
        ModelError: says why, the reasons that concern most tensors first.
    """
    if analysis.groups:
        return
    where: dict[str, list[str]] = {}
    for item in analysis.not_pruned:
        where.setdefault(item.reason, []).append(item.node or item.tensor)
    reasons = sorted(where, key=lambda reason: -len(where[reason]))
    told = [
        f"{visible(reason)} ({visible(where[reason][0])!r}{_more(len(where[reason]))})" for reason in reasons[:_SHOWN]
    ]
    if len(reasons) > _SHOWN:
        told.append(f"and {len(reasons) - _SHOWN} more reasons")
    shapeless = next((name for name in analysis.graph.inputs if name not in analysis.facts.shapes), None)
    if shapeless is not None:
        told.insert(
            0, f"the file does not say what shape input {visible(shapeless)!r} has: give it (--shape NAME=SIZES)"
        )
    elif not told:
        told.append("it has no layers with channels between them")
        if analysis.uncounted:
            first = visible(str(analysis.uncounted[0]))
            told.append(f"what {first} computes is not followed: a body is pruned as a model of its own")
    why = "; ".join(told)
    raise ModelError(f"{analysis.name}: nothing can be pruned: {why}; `onnxprune inspect` shows all")


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""
