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
from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.structure.analysis import Analysis

_MOST_NODES = 24  # between the inputs and what picks rows; behind more, a model computes what it looks up
_BATCH = 64


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
    for node, steps in _lookups(analysis):
        table = analysis.value(node.input(0))
        assert table is not None
        read = used.setdefault(node.input(0), np.zeros(len(table), bool))
        try:
            for picked in _picked(node.input(1), steps, analysis, data, engine):
                read[picked % len(table)] = True
        except ModelError:  # what picks cannot be run by itself
            read[:] = True
    found = []
    for name, read in used.items():
        table, unused = analysis.value(name), int(np.count_nonzero(~read))
        if table is not None and unused:
            found.append(UnusedRows(name, len(table), unused, unused * prod(table.shape[1:])))
    return sorted(found, key=lambda entry: -entry.parameters)


def _lookups(analysis: Analysis) -> Iterator[tuple[Node, list[Node]]]:
    """The nodes that pick rows of a constant table, with the nodes between the inputs and what they pick by."""
    layers, inputs = {layer.node for layer in analysis.layers}, {*analysis.graph.inputs}
    for node in analysis.graph.nodes:
        if node.op_type != "Gather" or node.int("axis", 0) != 0 or analysis.value(node.input(1)) is not None:
            continue
        table = analysis.value(node.input(0))
        if table is None or table.ndim != 2:
            continue
        steps = needed_nodes(analysis.graph.nodes, [node.input(1)], lambda name: name in inputs)
        if len(steps) <= _MOST_NODES and not any(step.name in layers or step.captured for step in steps):
            yield node, steps


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
