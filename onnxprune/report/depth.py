"""The network as blocks along its depth: which layers follow each other, where branches part and meet.

Nodes without multiply-adds of their own are passed over, except where several branches meet. No drawing here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

from onnxprune.core.errors import ModelError
from onnxprune.core.results import LayerCost
from onnxprune.graph.nodes import Graph, read_graph
from onnxprune.ops import handler_of
from onnxprune.pipeline.outcome import PruneOutcome

MOST = 2000
"""Blocks that are drawn; a picture of more would be too large for a page."""


@dataclass(frozen=True, slots=True)
class Block:
    """A layer, a place where branches meet, or an input.

    Attributes:
        name: of the node, or of the input.
        op_type: its operator; "" for an input.
        before: output channels; 0 where they are not known or it is no layer.
        after: output channels of the result; 0 where the block is gone.
        is_layer: whether it has weights.
        gone: whether it went as a whole.
        sources: positions of the blocks that it follows.
        depth: longest way from the inputs, in blocks.
        lane: branch that it is drawn on, counted from 0.
    """

    name: str
    op_type: str = ""
    before: int = 0
    after: int = 0
    is_layer: bool = False
    gone: bool = False
    sources: tuple[int, ...] = ()
    depth: int = 0
    lane: int = 0


def blocks(result: PruneOutcome) -> tuple[Block, ...]:
    """The blocks of a network, each after those that it follows; a chain of the layers where the graph is not known.

    Nothing where the graph cannot be read, or is too large to be drawn.
    """
    gone = {name for block in result.removed_blocks for name in block.nodes}
    layers = {layer.node: layer for layer in result.layers}
    if result.original is None:
        return _placed(_layer(layer, gone, (n - 1,) if n else ()) for n, layer in enumerate(result.layers))
    try:
        found = _followed(read_graph(result.original), layers, gone)
    except ModelError:
        return ()
    return _placed(found) if len(found) <= MOST else ()


def _layer(layer: LayerCost, gone: set[str], sources: tuple[int, ...]) -> Block:
    whole = layer.node in gone
    after = 0 if whole else layer.width_after
    return Block(layer.node, layer.op_type, layer.width_before, after, True, whole, sources)


def _followed(graph: Graph, layers: dict[str, LayerCost], gone: set[str]) -> list[Block]:
    """Blocks in the order of the graph."""
    made = [Block(name) for name in graph.inputs]
    origin: dict[str, int] = {name: n for n, name in enumerate(graph.inputs)}
    for node in graph.nodes:
        sources = tuple(sorted({origin[name] for name in node.reads if name in origin}))
        if not sources or handler_of(node.op_type).reads_shape(node):  # what depends on shapes only is no branch
            continue
        layer, number = layers.get(node.name), sources[0]
        if layer is not None and layer.params_before:
            made.append(_layer(layer, gone, sources))
            number = len(made) - 1
        elif len(sources) > 1:
            made.append(Block(node.name, node.op_type, gone=node.name in gone, sources=sources))
            number = len(made) - 1
        origin.update(dict.fromkeys(filter(None, node.outputs), number))
    return _read(made)


def _read(made: Sequence[Block]) -> list[Block]:
    """Without inputs that nothing reads."""
    read = {source for block in made for source in block.sources}
    kept = [n for n, block in enumerate(made) if block.sources or n in read]
    place = {old: new for new, old in enumerate(kept)}
    return [replace(made[n], sources=tuple(place[source] for source in made[n].sources)) for n in kept]


def _placed(made: Iterable[Block]) -> tuple[Block, ...]:
    """Each block at its depth, on the first lane of a predecessor that is free from there on, else on a free one."""
    placed: list[Block] = []
    for block in made:
        depth = max((placed[source].depth for source in block.sources), default=-1) + 1
        placed.append(replace(block, depth=depth))
    taken: dict[int, int] = {}  # by lane, the depth up to which it is taken
    for n in sorted(range(len(placed)), key=lambda n: (placed[n].depth, n)):
        depth = placed[n].depth
        wanted = sorted(placed[source].lane for source in placed[n].sources)
        lane = next(lane for lane in chain(wanted, count()) if taken.get(lane, -1) < depth)
        placed[n], taken[lane] = replace(placed[n], lane=lane), depth
    return tuple(placed)
