"""Shape arithmetic after removal: what the graph computes from widths stays what it was.

A Shape node that reads a pruned axis gives a smaller number, and formulas made of it (a scale `1 / sqrt(d)`, a count of
positions) would change. Removal only narrows tensors, so such values are kept: as constants where they do not vary with
the graph's inputs, else by restoring the elements of Shape's result. Handlers then rewrite the few targets that must
follow the new widths.
"""

import numpy as np

from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.folding import evaluate, shape_value
from onnxprune.graph.nodes import Node
from onnxprune.structure.space import Ids, PruneSpace


def keep_shape_arithmetic(edit: GraphEdit, space: PruneSpace, removed: Ids) -> None:
    """Store or restore every value that the narrower tensors would change."""
    facts = space.facts
    narrowed = {
        name
        for name, axes in space.labels.items()
        if name not in edit.model.constants and any(ids is not None and removed[ids].any() for ids in axes)
    }
    for name, read in facts.read.items():
        if name in edit.values or name in facts.transparent or not read & narrowed:
            continue
        readers = edit.view.consumers.get(name, ())
        if name in edit.view.outputs or any(not facts.is_folded(reader) for reader in readers):
            edit.set_value(name, facts.folded[name])
    for node in edit.view.nodes:
        if node.op_type == "Shape" and node.input(0) in narrowed and node.output() not in facts.folded:
            _restore(edit, space, node, removed)


def _restore(edit: GraphEdit, space: PruneSpace, node: Node, removed: Ids) -> None:
    source, output = node.input(0), node.output()
    shape = space.facts.shapes[source]
    before = shape_value(node, shape)
    after = shape_value(node, space.shape_after(source, shape, removed))
    readers = [r for r in edit.view.consumers.get(output, ()) if not space.facts.is_folded(r)]
    if output in edit.view.outputs or any(_differs(edit, space, r, output, before, after) for r in readers):
        edit.replace_output_elements(node, before != after, before)


def _differs(
    edit: GraphEdit, space: PruneSpace, reader: Node, tensor: str, before: np.ndarray, after: np.ndarray
) -> bool:
    """Whether a reader's result depends on the elements that changed (picking others does not)."""
    feeds = {}
    for name in filter(None, reader.inputs):
        value = edit.model.constants.get(name, space.facts.folded.get(name))
        if value is None and name in space.facts.sizes:
            value = space.facts.sizes[name].value
        if value is None:
            return True
        feeds[name] = value
    results = [evaluate(edit.model, reader, {**feeds, tensor: value}) for value in (before, after)]
    if None in results or reader.captured:
        return True
    first, second = (r or {} for r in results)
    return any(not np.array_equal(first[name], second[name]) for name in first)
