"""The option `--keep`: finds the groups that must not be pruned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxprune.core.errors import InputError
from onnxprune.core.patterns import hint, matching
from onnxprune.structure.analysis import Analysis

_OPTION = "--keep"


@dataclass(frozen=True, slots=True)
class Kept:
    """What one pattern keeps.

    Attributes:
        pattern: as the user wrote it.
        groups: names of the groups that are kept.
        others: names that match, of nodes that carry no group's channels.
    """

    pattern: str
    groups: tuple[str, ...]
    others: tuple[str, ...]


def kept_groups(analysis: Analysis, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the groups that `--keep` protects: a pattern matches their name or that of a node which carries them.

    Patterns are read as `core.patterns.matching` reads them.

    Raises:
        InputError: a pattern matches nothing in the model, or is no regular expression.
    """
    return frozenset(name for pattern in patterns for name in kept_by(analysis, pattern).groups)


def kept_by(analysis: Analysis, pattern: str) -> Kept:
    """What one pattern of `--keep` matches.

    Raises:
        InputError: nothing, or it is no regular expression.
    """
    matched = matching(pattern, _names(analysis), _OPTION)
    if not matched:
        advice = hint(pattern, _prunable(analysis))
        raise InputError(f"{_OPTION} {pattern!r} matches nothing in {analysis.name}{advice}")
    # A depthwise convolution or a Relu carries channels that another node makes.
    made = {node.name: node.outputs for node in analysis.graph.nodes if node.name in matched}
    carried = {output for outputs in made.values() for output in outputs}
    groups = [
        group
        for group in analysis.groups
        if group.name in matched
        or not matched.isdisjoint(group.producers)
        or any(tensor in carried for tensor, _ in group.places)
    ]
    places = {tensor for group in groups for tensor, _ in group.places}
    named = {name for group in groups for name in (group.name, *group.producers)}
    named |= {name for name, outputs in made.items() if not places.isdisjoint(outputs)}
    others = tuple(name for name in dict.fromkeys(_names(analysis)) if name in matched and name not in named)
    return Kept(pattern, tuple(group.name for group in groups), others)


def without_groups(analysis: Analysis, patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns that have no effect, since they match only what cannot be pruned anyway."""
    return tuple(pattern for pattern in patterns if not kept_by(analysis, pattern).groups)


def _prunable(analysis: Analysis) -> Iterator[str]:
    for group in analysis.groups:
        yield group.name
        yield from group.producers


def _names(analysis: Analysis) -> Iterator[str]:
    """All names that a pattern may match: those of groups and of nodes."""
    yield from _prunable(analysis)
    yield from (node.name for node in analysis.graph.nodes)
