"""Replaces calls of local functions by the functions' nodes, up to a size limit (a small file could expand endlessly).

Labels pass through operators only, so functions are written out before anything else happens.
"""

from collections.abc import Iterable, Iterator, Mapping

import onnx

from onnxprune.core.errors import ModelError
from onnxprune.core.text import first_line

MOST_NODES = 50_000
"""Nodes that functions may stand for, all calls together."""

MOST_BYTES = 1 << 29
"""Bytes of these nodes; what constants in functions take is multiplied too."""

MOST_DEPTH = 100
"""Functions that call each other, one inside the other."""

_Key = tuple[str, str, str]


def inlined(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with all calls of local functions replaced by their nodes.

    Raises:
        ModelError: a function calls itself, all of them stand for too many nodes, or the file contradicts itself.
    """
    if not proto.functions:
        return proto
    _check(proto, name)
    from onnx import inliner

    try:
        return inliner.inline_local_functions(proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{name}: local functions cannot be replaced by their nodes: {first_line(error)}") from error


def _check(proto: onnx.ModelProto, name: str) -> None:
    functions = {_key(f.domain, f.name, f.overload): f for f in proto.functions}
    size: dict[_Key, tuple[int, int]] = {}
    for function in _callees_first(functions, name):
        size[function] = _expanded(functions[function].node, size, functions[function].ByteSize())
    nodes, taken = _expanded(proto.graph.node, size, 0)
    if nodes > MOST_NODES or taken > MOST_BYTES:
        what = f"{nodes} nodes" if nodes > MOST_NODES else f"{taken} bytes"
        raise ModelError(
            f"{name}: its local functions stand for {what}, more than are read ({MOST_NODES} nodes, {MOST_BYTES} bytes)"
        )


def _expanded(nodes: Iterable[onnx.NodeProto], size: Mapping[_Key, tuple[int, int]], own_bytes: int) -> tuple[int, int]:
    """Number of nodes and bytes once all calls are expanded."""
    count, taken = 0, own_bytes
    for node in _all_nodes(nodes):
        more, room = size.get(_key(node.domain, node.op_type, node.overload), (1, 0))
        count, taken = count + more, taken + room
    return count, taken


def _callees_first(functions: Mapping[_Key, onnx.FunctionProto], name: str) -> Iterator[_Key]:
    """The functions in an order in which each comes after those it calls."""
    calls = {
        key: {_key(n.domain, n.op_type, n.overload) for n in _all_nodes(function.node)} & functions.keys()
        for key, function in functions.items()
    }
    waiting = dict(calls)
    for _ in range(MOST_DEPTH):
        ready = [key for key, called in waiting.items() if not called & waiting.keys()]
        for key in ready:
            del waiting[key]
        yield from ready
        if not waiting:
            return
        if not ready:
            key = next(iter(waiting))
            raise ModelError(f"{name}: local function {key[1]!r} calls itself, or one that does; there is no end to it")
    raise ModelError(f"{name}: more than {MOST_DEPTH} local functions call each other, one inside the other")


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All nodes, including those in subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _all_nodes(graph.node)


def _key(domain: str, name: str, overload: str) -> _Key:
    return "" if domain == "ai.onnx" else domain, name, overload
