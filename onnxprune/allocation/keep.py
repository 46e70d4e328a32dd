"""`--keep`: the groups that are not pruned."""

from collections.abc import Iterator, Sequence

from onnxprune.core.errors import InputError
from onnxprune.core.patterns import alike, matching
from onnxprune.structure.analysis import Analysis

_OPTION = "--keep"


def kept_groups(analysis: Analysis, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the groups whose name, or a producer's, is meant by a pattern; see `core.patterns.matching`.

    Raises:
        InputError: a pattern matches nothing in the model, or is no regular expression.
    """
    kept: set[str] = set()
    for pattern in patterns:
        found = matching(pattern, _names(analysis), _OPTION)
        if not found:
            hint = alike(pattern, _prunable(analysis))
            raise InputError(f"{_OPTION} {pattern!r} matches nothing in {analysis.name}{hint}")
        kept.update(g.name for g in analysis.groups if g.name in found or not found.isdisjoint(g.producers))
    return frozenset(kept)


def without_groups(analysis: Analysis, patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns that match only what cannot be pruned anyway."""
    prunable = frozenset(_prunable(analysis))
    return tuple(p for p in patterns if prunable.isdisjoint(matching(p, _names(analysis), _OPTION)))


def _prunable(analysis: Analysis) -> Iterator[str]:
    for group in analysis.groups:
        yield group.name
        yield from group.producers


def _names(analysis: Analysis) -> Iterator[str]:
    """All names that `inspect` prints: of groups, and of nodes."""
    yield from _prunable(analysis)
    yield from (node.name for node in analysis.graph.nodes)
