"""Finds groups that can be removed completely, together with the branch of the graph that only they feed.

Such branches are residual branches, attention blocks, gates, and inputs of a Concat.
"""

from collections.abc import Collection
from dataclasses import dataclass

from onnxprune.structure.analysis import Analysis
from onnxprune.structure.cut import Cuts


@dataclass(frozen=True, slots=True)
class Branch:
    """A group that can be removed completely, and the nodes that then have no purpose.

    Attributes:
        group: its number.
        along: numbers of the other groups that feed nothing else, and go with it.
        nodes: names of the nodes that go.
        losses: nodes that go on without some of their inputs, and these inputs.
    """

    group: int
    along: tuple[int, ...]
    nodes: frozenset[str]
    losses: tuple[tuple[str, frozenset[str]], ...]


def branches(analysis: Analysis, among: Collection[int] | None = None) -> tuple[Branch, ...]:
    """Find every group that can be removed completely while all others stay, in the groups' order.

    Args:
        analysis: the model's.
        among: numbers of the groups to look at; all by default.
    """
    cuts = Cuts(analysis)
    removable = []
    for index, group in enumerate(analysis.groups):
        if among is not None and index not in among:
            continue
        removed = analysis.none_removed()
        removed[group.units] = True
        cut = cuts.find(removed)
        if cut.problem is None:
            along = (
                other
                for other, other_group in enumerate(analysis.groups)
                if other != index and cut.removed[other_group.units].all()
            )
            removable.append(Branch(index, tuple(along), cut.gone, tuple(cut.losses.items())))
    return tuple(removable)
