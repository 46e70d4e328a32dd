"""Layers that share their weights: the towers of a Siamese network, a head that runs on every level of a pyramid.

Such layers are judged and refitted together, on what all of them read. For that their inputs must be known at the same
time, which an order of the nodes gives in which they follow each other directly. Layers that feed each other (the
same block again and again) have no such order.
"""

from collections.abc import Sequence

from onnxprune.graph.nodes import Node
from onnxprune.graph.order import in_chains
from onnxprune.structure.analysis import Analysis


def side_by_side(analysis: Analysis, *, chains: bool = False) -> tuple[tuple[Node, ...], tuple[tuple[str, ...], ...]]:
    """The nodes in an order in which layers that share their weight follow each other, and the names of such layers.

    Where no layers share a weight, the order is the graph's, or that of its chains. A weight that anything else reads
    stays alone.

    Args:
        analysis: of the model.
        chains: whether the nodes of a chain follow each other otherwise.
    """
    nodes, together = analysis.graph.nodes, list[tuple[str, ...]]()
    if chains:
        nodes = in_chains(nodes)
    for names in _readers(analysis):
        ordered = _gathered(nodes, names)
        if ordered is not None:
            nodes, together = ordered, [*together, names]
    place = {node.name: index for index, node in enumerate(nodes)}
    kept = [names for names in together if place[names[-1]] - place[names[0]] == len(names) - 1]
    return nodes, tuple(kept)


def tied(analysis: Analysis) -> tuple[str, ...]:
    """Layers whose weight other nodes read too, and that cannot be judged and refitted with these."""
    together = {name for names in side_by_side(analysis)[1] for name in names}
    return tuple(
        layer.node
        for layer in analysis.layers
        if layer.weight in analysis.model.constants
        and analysis.graph.reads(layer.weight) > 1
        and layer.node not in together
    )


def _readers(analysis: Analysis) -> list[tuple[str, ...]]:
    """The layers of each weight that only several layers read, all of them in the same way (none of them turned)."""
    by_weight: dict[tuple[object, ...], list[str]] = {}
    for layer in analysis.layers:
        use = layer.weight, layer.in_axis, layer.out_axis, layer.group, layer.transposed, layer.gain
        by_weight.setdefault(use, []).append(layer.node)
    return [
        tuple(names)
        for (weight, *_), names in by_weight.items()
        if len(names) > 1
        and isinstance(weight, str)
        and weight in analysis.model.constants
        and analysis.graph.reads(weight) == len(names)
    ]


def _gathered(nodes: Sequence[Node], names: Sequence[str]) -> tuple[Node, ...] | None:
    """The nodes with some of them directly behind each other, where the last one stands; None if one needs another."""
    first = next(index for index, node in enumerate(nodes) if node.name in names)
    last = next(index for index, node in reversed([*enumerate(nodes)]) if node.name in names)
    members, early, late = [], [], []
    made: set[str] = set()  # by the members, and by what follows from them
    for node in nodes[first : last + 1]:
        follows = not made.isdisjoint(node.reads)
        if node.name in names:
            if follows:
                return None
            members.append(node)
        elif follows:
            late.append(node)
        else:
            early.append(node)
            continue
        made.update(name for name in node.outputs if name)
    return (*nodes[:first], *early, *members, *late, *nodes[last + 1 :])
