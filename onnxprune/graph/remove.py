"""Removal: compress every labelled axis of every constant, then let handlers adapt what spells out widths.

`masked` is the oracle: removing units must give the outputs that the original gives when their consumers see zero.
"""

from typing import Any

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.model import Model
from onnxprune.graph.space import Ids, PruneSpace
from onnxprune.graph.view import GraphView, Node
from onnxprune.ops import handler_for


def remove(model: Model, graph: GraphView, space: PruneSpace, removed: Ids) -> Model:
    """Remove units.

    Args:
        model: the analysed model, not changed.
        graph: its view.
        space: its analysis.
        removed: `(units,)` True where a unit goes.

    Returns:
        The smaller model; the given one where nothing is removed.

    Raises:
        ModelError: the mask would leave an axis without channels, or removes what is fixed.
    """
    _check(space, removed)
    if not removed.any():
        return model
    edit = GraphEdit(model, graph)
    folded = space.facts.folded
    for tensor in space.labels:
        array = model.constants.get(tensor, folded.get(tensor))
        if array is not None:
            edit.set_value(tensor, compress(array, space, tensor, removed))
            if tensor in folded and tensor in graph.producer:  # the node is replaced, so all its outputs are stored
                for other in graph.producer[tensor].outputs:
                    if other and other not in space.labels:
                        edit.set_value(other, folded[other])
    for node in graph.nodes:
        handler = handler_for(node.op_type)
        if handler is not None and not all(name in folded for name in node.outputs):
            handler.rewrite(node, _Rewrite(node, edit, space, removed))
    changed = frozenset(tensor for tensor, axes in space.labels.items() if any(ids is not None for ids in axes))
    return edit.apply(stale=changed)


def compress(array: np.ndarray, space: PruneSpace, tensor: str, removed: Ids) -> np.ndarray:
    """The positions of a constant that stay."""
    for axis, ids in enumerate(space.labels[tensor]):
        if ids is not None and removed[ids].any():
            array = np.compress(~removed[ids], array, axis=axis)
    return array


def masked(model: Model, graph: GraphView, space: PruneSpace, removed: Ids) -> Model:
    """The original, whose consumers see zero for removed units (zero weights, or activations where none is constant)."""
    edit = GraphEdit(model, graph)
    by_name = {node.name: node for node in graph.nodes}
    for mask in space.masks:
        gone = removed[mask.units]
        if not gone.any():
            continue
        node = by_name[mask.node]
        array = model.constants.get(mask.tensor, space.facts.folded.get(mask.tensor))
        if array is None:
            _mask_activation(edit, node, mask.tensor, mask.axis, gone, space)
            continue
        zeroed = np.array(array)
        zeroed[(slice(None),) * mask.axis + (gone,)] = 0
        edit.set_input(node, node.inputs.index(mask.tensor), zeroed)
    return edit.apply()


def _mask_activation(edit: GraphEdit, node: Node, tensor: str, axis: int, gone: np.ndarray, space: PruneSpace) -> None:
    shape = [1] * len(space.facts.shapes[tensor])
    shape[axis] = len(gone)
    keep = np.where(gone, 0, 1).reshape(shape)
    edit.multiply_input(node, node.inputs.index(tensor), keep, space.facts.dtypes[tensor])


def _check(space: PruneSpace, removed: Ids) -> None:
    if removed.shape != (space.units,):
        raise ModelError(f"{space.model}: the removal mask has shape {removed.shape}, expected ({space.units},)")
    if removed[0]:
        raise ModelError(f"{space.model}: unit 0 stands for all fixed channels and cannot be removed")
    for tensor, axes in space.labels.items():
        for axis, ids in enumerate(axes):
            if ids is not None and len(ids) and removed[ids].all():
                raise ModelError(
                    f"{space.model}: removal would leave axis {axis} of {tensor!r} without channels; keep at least one"
                )


class _Rewrite:
    """`ops.base.Rewriting` for one node."""

    def __init__(self, node: Node, edit: GraphEdit, space: PruneSpace, removed: Ids) -> None:
        self._node = node
        self._edit = edit
        self._space = space
        self._removed = removed

    def kept(self, tensor: str, axis: int) -> np.ndarray | None:
        """`(size,)` mask of the positions that stay; None where the axis carries no labels."""
        axes = self._space.labels.get(tensor, ())
        ids = axes[axis] if -len(axes) <= axis < len(axes) else None
        return None if ids is None else ~self._removed[ids]

    def width(self, tensor: str, axis: int) -> int | None:
        """Size of an axis after removal where it carries labels, else None."""
        kept = self.kept(tensor, axis)
        return None if kept is None else int(kept.sum())

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Concrete shape before removal (batch pinned)."""
        return self._space.facts.shapes.get(tensor)

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant before removal."""
        value = self._edit.model.constants.get(tensor)
        return self._space.facts.folded.get(tensor) if value is None else value

    def set_attribute(self, name: str, value: Any) -> None:
        """Give the node a new attribute value; None removes it."""
        self._edit.set_attribute(self._node, name, value)

    def set_input(self, position: int, value: np.ndarray) -> None:
        """Give the node a constant of its own as this input, where it differs from the present one."""
        current = self.constant(self._node.input(position))
        if current is None or current.shape != value.shape or not np.array_equal(current, value):
            self._edit.set_input(self._node, position, value)
