"""Lets an operator's handler adjust its node while units are removed; implements `ops.base.Rewriting`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.nodes import Node
from onnxprune.graph.shapes import Sizes
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


class Rewrite:
    """Access to one node while it is adjusted; implements `ops.base.Rewriting`."""

    def __init__(self, node: Node, edit: GraphEdit, analysis: Analysis, removed: Ids) -> None:
        self._node = node
        self._edit = edit
        self._analysis = analysis
        self._removed = removed

    def kept(self, tensor: str, axis: int) -> np.ndarray | None:
        """Mask `(size,)` of the positions of an axis that stay; None for an axis without channels."""
        axes = self._analysis.labels.get(tensor, ())
        ids = axes[axis] if -len(axes) <= axis < len(axes) else None
        return None if ids is None else ~self._removed[ids]

    def width(self, tensor: str, axis: int) -> int | None:
        """Size of a channel axis after removal; None for an axis without channels."""
        kept = self.kept(tensor, axis)
        return None if kept is None else int(kept.sum())

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Shape before removal, at the batch size that was analysed."""
        return self._analysis.facts.shapes.get(tensor)

    def constant(self, tensor: str) -> np.ndarray | None:
        """Value of a constant before removal."""
        value = self._edit.model.constants.get(tensor)
        return self._analysis.facts.folded.get(tensor) if value is None else value

    def sizes(self, tensor: str) -> Sizes | None:
        """A vector of sizes before removal, and which elements depend on the input; None where it is unknown."""
        value = self.constant(tensor)
        return self._analysis.facts.sizes.get(tensor) if value is None else Sizes(value, np.zeros(value.shape, bool))

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute of the node; None removes it."""
        self._edit.set_attribute(self._node, name, value)

    def set_input(self, position: int, value: np.ndarray) -> None:
        """Replace an input of the node by a constant, unless it has that value already."""
        current = self.constant(self._node.input(position))
        if current is None or current.shape != value.shape or not np.array_equal(current, value):
            self._edit.set_input(self._node, position, value)

    def read_instead(self, position: int, tensor: str) -> None:
        """Connect an input of the node to another tensor."""
        self._edit.read_instead(self._node, position, tensor)

    def set_elements(self, position: int, elements: Mapping[int, int]) -> None:
        """Change single elements of an integer vector that the node reads."""
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

    def after(self, position: int) -> np.ndarray | None:
        """Value, after removal, of an input that is a stored constant; None for other inputs."""
        return self._edit.stored(self._edit.input(self._node, position))

    def drop_input(self, position: int) -> None:
        """Remove an input; the inputs behind it move up."""
        self._edit.drop_input(self._node, position)

    def drop_output(self, position: int) -> None:
        """Remove an output; the outputs behind it move up."""
        self._edit.drop_output(self._node, position)
