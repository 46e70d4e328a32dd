"""Removal: compress every labelled axis of every constant, then let handlers adapt what spells out widths.

`masked` is the oracle: removing units must give the outputs that the original gives when their consumers see zero.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.core.errors import ModelError
from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.model import Model, release
from onnxprune.graph.nodes import Node, named_failures, read_graph
from onnxprune.graph.shapes import Sizes
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.shape_arithmetic import keep_shape_arithmetic
from onnxprune.structure.units import Ids


def remove(analysis: Analysis, removed: Ids) -> Model:
    """Remove units.

    Args:
        analysis: the model's; not changed.
        removed: `(units,)` True where a unit goes.

    Returns:
        The smaller model; the given one where nothing is removed.

    Raises:
        ModelError: the mask would leave an axis without channels, or removes what is fixed.
    """
    _check(analysis, removed)
    model, graph = analysis.model, analysis.graph
    if not removed.any():
        return model
    edit = GraphEdit(model, graph)
    folded = analysis.facts.folded
    for tensor in analysis.labels:
        array = model.constants.get(tensor, None if tensor in analysis.facts.transparent else folded.get(tensor))
        if array is not None:
            edit.set_value(tensor, compress(array, analysis, tensor, removed))
            release(array)
            if tensor in folded and tensor in graph.producer:  # the node is replaced, so all its outputs are stored
                for other in graph.producer[tensor].outputs:
                    if other and other not in analysis.labels:
                        edit.set_value(other, folded[other])
    for node in graph.nodes:
        if not analysis.facts.is_folded(node):
            with named_failures(model, node):
                handler_of(node.op_type).rewrite(node, _Rewrite(node, edit, analysis, removed))
    by_name = {node.name: node for node in graph.nodes}
    for name, position in analysis.omitted:
        edit.read_instead(by_name[name], position, "")
    keep_shape_arithmetic(edit, analysis, removed)
    changed = frozenset(tensor for tensor, axes in analysis.labels.items() if any(ids is not None for ids in axes))
    return edit.apply(stale=changed)


def compress(array: np.ndarray, analysis: Analysis, tensor: str, removed: Ids) -> np.ndarray:
    """The positions of a constant that stay."""
    for axis, ids in enumerate(analysis.labels[tensor]):
        if ids is not None and removed[ids].any():
            array = np.compress(~removed[ids], array, axis=axis)
    return array


def masked(analysis: Analysis, removed: Ids, part: Model | None = None) -> Model:
    """The original, whose consumers see zero for removed units (in their weights, or in what they read).

    Args:
        analysis: the original's.
        removed: `(units,)` True where a unit goes.
        part: some of its nodes as a model (`graph.subgraph.segment`), to be masked instead of the whole.
    """
    model, graph = (analysis.model, analysis.graph) if part is None else (part, read_graph(part))
    first_output = {node.name: next(filter(None, node.outputs)) for node in analysis.graph.nodes if any(node.outputs)}
    edit = GraphEdit(model, graph)
    factors: dict[tuple[str, str], np.ndarray] = {}
    for mask in analysis.masks:
        gone = removed[mask.units]
        if gone.any() and first_output[mask.node] in graph.producer:
            shape = [1] * len(analysis.facts.shapes[mask.tensor])
            shape[mask.axis] = len(gone)
            place = (mask.node, mask.tensor)
            factors[place] = factors.get(place, np.ones(1, bool)) & ~gone.reshape(shape)
    for (name, tensor), keep in factors.items():
        node = graph.producer[first_output[name]]
        position = node.inputs.index(tensor)
        array = analysis.value(tensor)
        if array is None or tensor in analysis.facts.transparent:
            edit.multiply_input(node, position, keep, analysis.facts.dtypes[tensor])
        else:
            edit.set_input(node, position, np.where(keep, array, np.zeros((), array.dtype)))
    return edit.apply()


def _check(analysis: Analysis, removed: Ids) -> None:
    if removed.shape != (analysis.units,):
        raise ModelError(f"{analysis.name}: the removal mask has shape {removed.shape}, expected ({analysis.units},)")
    if removed[0]:
        raise ModelError(f"{analysis.name}: unit 0 stands for all fixed channels and cannot be removed")
    for tensor, axes in analysis.labels.items():
        for axis, ids in enumerate(axes):
            if ids is not None and len(ids) and removed[ids].all():
                raise ModelError(
                    f"{analysis.name}: removal would leave axis {axis} of {tensor!r} without channels; "
                    "keep at least one"
                )


class _Rewrite:
    """`ops.base.Rewriting` for one node."""

    def __init__(self, node: Node, edit: GraphEdit, analysis: Analysis, removed: Ids) -> None:
        self._node = node
        self._edit = edit
        self._analysis = analysis
        self._removed = removed

    def kept(self, tensor: str, axis: int) -> np.ndarray | None:
        """`(size,)` mask of the positions that stay; None where the axis carries no labels."""
        axes = self._analysis.labels.get(tensor, ())
        ids = axes[axis] if -len(axes) <= axis < len(axes) else None
        return None if ids is None else ~self._removed[ids]

    def width(self, tensor: str, axis: int) -> int | None:
        """Size of an axis after removal where it carries labels, else None."""
        kept = self.kept(tensor, axis)
        return None if kept is None else int(kept.sum())

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Concrete shape before removal (batch pinned)."""
        return self._analysis.facts.shapes.get(tensor)

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant before removal."""
        value = self._edit.model.constants.get(tensor)
        return self._analysis.facts.folded.get(tensor) if value is None else value

    def sizes(self, tensor: str) -> Sizes | None:
        """An integer vector before removal, with which elements vary with the inputs; None where it is not known."""
        value = self.constant(tensor)
        return self._analysis.facts.sizes.get(tensor) if value is None else Sizes(value, np.zeros(value.shape, bool))

    def set_attribute(self, name: str, value: Any) -> None:
        """Give the node a new attribute value; None removes it."""
        self._edit.set_attribute(self._node, name, value)

    def set_input(self, position: int, value: np.ndarray) -> None:
        """Give the node a constant of its own as this input, where it differs from the present one."""
        current = self.constant(self._node.input(position))
        if current is None or current.shape != value.shape or not np.array_equal(current, value):
            self._edit.set_input(self._node, position, value)

    def read_instead(self, position: int, tensor: str) -> None:
        """Let the node read another tensor as this input."""
        self._edit.read_instead(self._node, position, tensor)

    def set_elements(self, position: int, elements: Mapping[int, int]) -> None:
        """Give elements of an integer vector that the node reads other values, where they differ."""
        tensor = self._node.input(position)
        known = self.sizes(tensor)
        if known is None:
            return
        fresh = np.array(known.value)
        fresh[list(elements)] = list(elements.values())
        if not known.free.any():
            self.set_input(position, fresh)
        elif not np.array_equal(fresh, known.value):
            self._edit.replace_input_elements(self._node, position, fresh != known.value, fresh)
