"""Keeps values that the graph computes from tensor sizes as they were, although pruned tensors are narrower.

A Shape node that reads a pruned axis gives a smaller number, and formulas made of it (a scale `1 / sqrt(d)`, a count of
positions) would change. Removal only narrows tensors, so such values are kept: as constants where they do not vary with
the graph's inputs, else by restoring the elements of Shape's result. Handlers then rewrite the few targets that must
follow the new widths.
"""

from collections.abc import Iterable

import numpy as np

from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.ops.facts import evaluate
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


def keep_shape_arithmetic(edit: GraphEdit, analysis: Analysis, removed: Ids, nodes: Iterable[Node]) -> None:
    """Keep every value that is computed from the size of a pruned axis.

    Args:
        edit: where.
        analysis: the model's.
        removed: `(units,)` mask of what goes.
        nodes: those that stay.
    """
    facts = analysis.facts
    narrowed = {
        name
        for name, axes in analysis.labels.items()
        if name not in edit.model.constants and any(ids is not None and removed[ids].any() for ids in axes)
    }
    for name, read in facts.read.items():
        if name in edit.values or name in facts.transparent or not read & narrowed:
            continue
        readers = edit.graph.consumers.get(name, ())
        if name in edit.graph.outputs or any(not facts.is_folded(reader) for reader in readers):
            edit.set_value(name, facts.folded[name])
    for node in nodes:
        if node.input(0) not in narrowed or node.output() in facts.folded:
            continue
        if handler_of(node.op_type).reads_shape(node):
            _restore(edit, analysis, node, removed)


def _restore(edit: GraphEdit, analysis: Analysis, node: Node, removed: Ids) -> None:
    source, output = node.input(0), node.output()
    shape = analysis.facts.shapes[source]
    rules = handler_of(node.op_type)
    before = rules.shape_value(node, shape)
    after = rules.shape_value(node, analysis.shape_after(source, shape, removed))
    readers = [r for r in edit.graph.consumers.get(output, ()) if not analysis.facts.is_folded(r)]
    if output in edit.graph.outputs or any(_differs(edit, analysis, r, output, before, after) for r in readers):
        edit.replace_output_elements(node, before != after, before)


def _differs(
    edit: GraphEdit, analysis: Analysis, reader: Node, tensor: str, before: np.ndarray, after: np.ndarray
) -> bool:
    """Whether a node's result depends on those elements of a shape vector that removal changes."""
    feeds = {}
    for name in filter(None, reader.inputs):
        value = edit.model.constants.get(name, analysis.facts.folded.get(name))
        if value is None and name in analysis.facts.sizes:
            value = analysis.facts.sizes[name].value
        if value is None:
            return True
        feeds[name] = value
    results = [evaluate(edit.model, reader, {**feeds, tensor: value}) for value in (before, after)]
    if None in results or reader.captured:
        return True
    first, second = (r or {} for r in results)
    return any(not np.array_equal(first[name], second[name]) for name in first)
