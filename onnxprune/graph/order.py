"""Which nodes a result depends on, and when each tensor is read for the last time."""

from collections.abc import Callable, Iterable, Sequence

from onnxprune.graph.nodes import Node


def _nothing(_: str) -> bool:
    return False


def needed_nodes(nodes: Sequence[Node], wanted: Iterable[str], known: Callable[[str], bool] = _nothing) -> list[Node]:
    """The nodes that compute the wanted tensors from the known ones, in order.

    Args:
        nodes: nodes in topological order.
        wanted: the tensors.
        known: whether a tensor is there already; none is by default.
    """
    targets = {name for name in wanted if not known(name)}
    chosen = []
    for node in reversed(nodes):
        if targets.intersection(node.outputs):
            chosen.append(node)
            targets.update(name for name in node.reads if not known(name))
    return chosen[::-1]


def last_uses(reads: Iterable[Iterable[str]], kept: Iterable[str] = ()) -> dict[str, int]:
    """For each tensor, the number of the last step that reads it; for kept ones, the number of steps.

    Args:
        reads: what each step reads.
        kept: tensors that are needed after the last step.
    """
    last: dict[str, int] = {}
    count = 0
    for names in reads:
        last |= dict.fromkeys(names, count)
        count += 1
    return last | dict.fromkeys(kept, count)
