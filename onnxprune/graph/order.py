"""Which nodes a result depends on, an order of nodes in chains, and how long tensors are needed."""

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


def in_chains(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes in another order of execution, in which those of a chain follow each other.

    Of the branches that a node joins, the longest comes last, directly before the node.

    Args:
        nodes: nodes in topological order.
    """
    makers = {name: node for node in nodes for name in node.outputs if name}
    sources: dict[str, list[Node]] = {}
    depth: dict[str, int] = {}
    for node in nodes:
        read = {maker.name: maker for name in node.reads if (maker := makers.get(name)) is not None}
        sources[node.name] = sorted(read.values(), key=lambda maker: depth[maker.name])
        depth[node.name] = 1 + max((depth[name] for name in read), default=0)
    used = {maker.name for read in sources.values() for maker in read}
    placed: dict[str, Node] = {}
    for last in sorted((node for node in nodes if node.name not in used), key=lambda node: depth[node.name]):
        waiting = [(last, iter(sources[last.name]))]
        while waiting:
            node, before = waiting[-1]
            source = next((source for source in before if source.name not in placed), None)
            if source is None:
                placed[node.name] = node
                waiting.pop()
            else:
                waiting.append((source, iter(sources[source.name])))
    return tuple(placed.values())


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


def asked_late(nodes: Sequence[Node], visits: Iterable[Sequence[str]]) -> list[str]:
    """The tensors that are asked for after some that are made later than they, and so have to be kept till then.

    Args:
        nodes: in the order in which they run.
        visits: the tensors that are asked for together, one visit after the other.
    """
    made = {name: index for index, node in enumerate(nodes) for name in node.outputs}
    late: list[str] = []
    furthest = -1
    for names in visits:
        places = [made.get(name, -1) for name in names]
        late += [name for name, place in zip(names, places, strict=True) if place < furthest]
        furthest = max([furthest, *places])
    return late
