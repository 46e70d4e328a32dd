"""Rows of tables (embeddings of tokens, of positions) that no calibration row reads.

Nothing is removed: other rows may read them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import Engine
from onnxprune.core.errors import ModelError
from onnxprune.core.text import percent, several
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node, read_graph
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.ops import handler_of
from onnxprune.ops.facts import fold_constants
from onnxprune.structure.analysis import Analysis

_MOST_NODES = 24  # between the inputs and what picks rows; behind more, a model computes what it looks up
_BATCH = 64
_HEAVY = 0.01  # of all parameters: rows that nothing reads are told from here on


@dataclass(frozen=True, slots=True)
class UnusedRows:
    """A table some of whose rows are read by no calibration row.

    Attributes:
        table: its name.
        rows: how many it has.
        unused: how many of them are never read.
        parameters: what the unused ones hold.
    """

    table: str
    rows: int
    unused: int
    parameters: int


def unused_rows(analysis: Analysis, data: Dataset, engine: Engine) -> list[UnusedRows]:
    """The tables whose rows inputs pick, where some row is never picked; the largest part first.

    Args:
        analysis: of the model.
        data: the calibration rows.
        engine: what picks run on.
    """
    used: dict[str, np.ndarray] = {}
    for table, picks, steps in _lookups(analysis):
        value = analysis.value(table)
        assert value is not None
        read = used.setdefault(table, np.zeros(len(value), bool))
        try:
            for picked in _picked(picks, steps, analysis, data, engine):
                read[picked % len(value)] = True
        except ModelError:  # what picks cannot be run by itself
            read[:] = True
    found = []
    for name, read in used.items():
        unused = int(np.count_nonzero(~read))
        if unused:
            found.append(UnusedRows(name, len(read), unused, unused * prod(analysis.shape(name)[1:])))
    return sorted(found, key=lambda entry: -entry.parameters)


def unread_notes(analysis: Analysis, data: Dataset, engine: Engine, parameters: int) -> list[str]:
    """A note for each table with rows that weigh something and that no calibration row reads.

    Args:
        analysis: of the model.
        data: the calibration rows.
        engine: what picks run on.
        parameters: those of the model.
    """
    return [
        f"{entry.unused:,} of the {entry.rows:,} rows of table {entry.table!r} are read by none of "
        f"{several(len(data), 'calibration row')}; they hold {percent(share, 0)} of the parameters, and stay"
        for entry in unused_rows(analysis, data, engine)
        if (share := entry.parameters / max(parameters, 1)) >= _HEAVY
    ]


def table_rows(model: Model) -> dict[str, int]:
    """How many different rows inputs may pick, for those whose values pick rows of constant tables as they are."""
    graph = read_graph(model)
    lookups = [
        (node.input(table), node.input(picks))
        for node in graph.nodes
        for table, picks in handler_of(node.op_type).lookups(node)
    ]
    constants = {**model.constants, **fold_constants(model, graph)} if lookups else {}
    fewest: dict[str, int] = {}
    for table, picks in lookups:
        picked = picks
        while (step := graph.producer.get(picked)) is not None:
            moved = handler_of(step.op_type).moves(step) or ((0,) if len(step.inputs) == 1 else ())  # or converted
            if len(moved) != 1:
                break
            picked = step.input(moved[0])
        if table in constants and picked in graph.inputs:
            rows = len(np.atleast_1d(constants[table]))
            fewest[picked] = min(rows, fewest.get(picked, rows))
    return fewest


def _lookups(analysis: Analysis) -> Iterator[tuple[str, str, list[Node]]]:
    """Constant tables, what picks their rows, and the nodes between the inputs and that."""
    layers, inputs = {layer.node for layer in analysis.layers}, {*analysis.graph.inputs}
    for node in analysis.graph.nodes:
        for table, picks in handler_of(node.op_type).lookups(node):
            value = analysis.value(node.input(table))
            if value is None or value.ndim != 2 or analysis.value(node.input(picks)) is not None:
                continue
            steps = needed_nodes(analysis.graph.nodes, [node.input(picks)], lambda name: name in inputs)
            if len(steps) <= _MOST_NODES and not any(step.name in layers or step.captured for step in steps):
                yield node.input(table), node.input(picks), steps


def _picked(tensor: str, steps: list[Node], analysis: Analysis, data: Dataset, engine: Engine) -> Iterator[np.ndarray]:
    """The indices that a tensor holds, batch by batch."""
    if not steps:
        yield from (batch[tensor] for batch in data.batches(_BATCH))
        return
    read = {name for step in steps for name in step.inputs} & {*analysis.graph.inputs}
    runner = None
    for batch in data.batches(_BATCH):
        feed = {name: batch[name] for name in read}
        runner = runner or Runner(subgraph(analysis.model, steps, feed, [tensor]), [tensor], engine=engine)
        yield runner.run_feed(feed)[tensor]
