"""Checks a large pruned model section by section, so that only one section of the weights is copied at a time.

A part is a run of consecutive nodes. Each runs on what the oracle's parts before it made, in the pruned model without
the removed positions: a difference is then one of this part, and rounding does not add up.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model, stored_size
from onnxprune.graph.nodes import Graph, Node, read_graph
from onnxprune.graph.order import last_uses, needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.ops import handler_of
from onnxprune.runtime.feeds import Feed
from onnxprune.runtime.session import open_session, runtime_errors
from onnxprune.structure.agreement import Outputs, close, differs, moved_wrongly, narrowed
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.removal import masked
from onnxprune.structure.units import Ids

_PART_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ComparedPart:
    """A section of the model: consecutive nodes. `made` names the tensors that later sections or the outputs read."""

    nodes: tuple[Node, ...]
    made: tuple[str, ...]


def parts(analysis: Analysis, most: int) -> Iterator[ComparedPart]:
    """Cut a model into sections whose constants take about `most` bytes each."""
    sizes = {name: stored_size(array) for name, array in analysis.model.constants.items()}
    nodes = [node for node in analysis.graph.nodes if not node.is_constant]
    owned = [sum(sizes.get(name, 0) for name in (*node.inputs, *node.captured)) for node in nodes]
    starts, held = [0], 0
    for index, constants_here in enumerate(owned):
        if held and held + constants_here > most:
            starts.append(index)
            held = 0
        held += constants_here
    last = last_uses((node.reads for node in nodes), analysis.graph.outputs)
    for start, end in zip(starts, [*starts[1:], len(nodes)], strict=True):
        made = (name for node in nodes[start:end] for name in node.outputs)
        yield ComparedPart(tuple(nodes[start:end]), tuple(name for name in made if last.get(name, -1) >= end))


def compare_parts(
    analysis: Analysis, removed: Ids, smaller: Model, feeds: Iterable[Feed], before: Model | None = None
) -> tuple[Feed, Outputs] | None:
    """Compare a pruned model with the expected values, section by section, on the first usable input.

    Args:
        analysis: of the model that units were removed from.
        removed: `(units,)` what was removed.
        smaller: the pruned model.
        feeds: inputs to try.
        before: the model whose values that of the analysis must have; None where it is the same.

    Returns:
        The feed and the oracle's outputs; None where the original runs on none.

    Raises:
        ModelError: a part differs, or the pruned model's does not run.
    """
    pieces, graph = tuple(parts(analysis, _PART_BYTES)), read_graph(smaller)
    for feed in feeds:
        known: Outputs = {name: np.asarray(value) for name, value in feed.items()}
        for number, part in enumerate(pieces):
            oracle = masked(analysis, removed, subgraph(analysis.model, part.nodes, known, part.made))
            try:
                made = _run(oracle, part.made, known)
            except ModelError:
                break
            if before is not None:
                _compare_original(analysis, before, part, known, made)
            _compare_smaller(analysis, removed, smaller, graph, part, known, made)
            later = {name for piece in pieces[number + 1 :] for n in piece.nodes for name in (*n.inputs, *n.captured)}
            later |= {*analysis.graph.outputs}
            made_later = {name for piece in pieces[number + 1 :] for n in piece.nodes for name in n.outputs}
            later |= _read_for(graph, {*known, *made} - made_later, made_later)
            known = {name: value for name, value in (known | made).items() if name in later}
        else:
            return feed, {name: known[name] for name in analysis.graph.outputs if name in known}
    return None


def _compare_original(
    analysis: Analysis, before: Model, part: ComparedPart, known: Mapping[str, np.ndarray], made: Outputs
) -> None:
    """Check that a section of the original still computes the same after weights were adjusted.

    What comes behind nodes that jump is compared on the results that these should have.
    """
    jumping = jumping_outputs(part.nodes)
    names = tuple(dict.fromkeys((*part.made, *jumping)))
    wanted = _run(subgraph(before, part.nodes, known, names), names, known)
    if all(close(made[name], wanted[name], wanted[name]) for name in part.made):
        return
    if jumping:
        given = {**known, **{name: wanted[name] for name in jumping}}
        rest = [node for node in part.nodes if not given.keys() & {*node.outputs}]
        left = tuple(name for name in part.made if name not in given)
        made = _run(subgraph(analysis.model, rest, given, left), left, given)
    if not all(close(made[name], wanted[name], wanted[name]) for name in part.made if name in made):
        raise moved_wrongly(before.name)


def jumping_outputs(nodes: Iterable[Node]) -> tuple[str, ...]:
    """What those nodes make whose result a tiny difference can change by much (rounding, comparing, sorting)."""
    return tuple(name for node in nodes if handler_of(node.op_type).jumps(node) for name in node.outputs if name)


def _compare_smaller(
    analysis: Analysis,
    removed: Ids,
    smaller: Model,
    graph: Graph,
    part: ComparedPart,
    known: Mapping[str, np.ndarray],
    made: Outputs,
) -> None:
    """Check one section of the pruned model; the error names the first node that differs."""
    small = {name: narrowed(value, analysis, name, removed) for name, value in known.items()}

    def same(names: Sequence[str], wanted: Outputs) -> Iterator[tuple[str, bool]]:
        model, there = _smaller_part(smaller, graph, small, names)
        actual = _run(model, there, small)
        for name in there:
            expected = narrowed(wanted[name], analysis, name, removed)
            yield name, actual[name].shape == expected.shape and close(actual[name], expected, expected)

    if all(right for _, right in same(part.made, made)):
        return
    inner = [name for node in part.nodes for name in node.outputs if name]
    oracle = masked(analysis, removed, subgraph(analysis.model, part.nodes, known, inner))
    values = _run(oracle, inner, known)
    jumping = jumping_outputs(part.nodes)
    small |= {name: narrowed(values[name], analysis, name, removed) for name in jumping}
    wrong = {name for name, right in same([name for name in inner if name not in small], values) if not right}
    first = next((node for node in part.nodes if wrong.intersection(node.outputs)), None)
    if first is not None or not jumping:
        raise differs(analysis.name, "an output" if first is None else str(first))


def _smaller_part(
    model: Model, graph: Graph, known: Mapping[str, np.ndarray], wanted: Sequence[str]
) -> tuple[Model, tuple[str, ...]]:
    """The pruned model's nodes that compute the wanted tensors, and which of these it has."""
    chosen = needed_nodes(graph.nodes, wanted, known.__contains__)
    made = {name for node in chosen for name in node.outputs}
    there = tuple(name for name in wanted if name in made)
    return subgraph(model, chosen, known, there), there


def _read_for(graph: Graph, known: Collection[str], wanted: Collection[str]) -> set[str]:
    """What of the known tensors the pruned model's nodes read to make what is wanted.

    Behind a branch that went, a tensor may carry the name of a later one of the original.
    """
    targets, read = {*wanted}, set[str]()
    for node in reversed(graph.nodes):
        if targets.intersection(node.outputs):
            inputs = {*node.inputs, *node.captured}
            read |= inputs.intersection(known)
            targets |= inputs.difference(known)
    return read


def _run(model: Model, names: Sequence[str], known: Mapping[str, np.ndarray]) -> Outputs:
    if not names:
        return {}
    session = open_session(model, optimise=False, entries={"session.disable_prepacking": "1"})
    feed = {value.name: known[value.name] for value in session.get_inputs()}
    with runtime_errors(f"{model.name}: onnxruntime cannot run a part of the model"):
        return dict(zip(names, map(np.asarray, session.run(list(names), feed)), strict=True))
