"""Cleans up the graph after whole branches were removed: merges left-over constants, drops nodes without effect."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.ops.traits import Change, Flow
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.cut import Cut
from onnxprune.structure.rewrite import Rewrite


def close_gaps(edit: GraphEdit, analysis: Analysis, cut: Cut) -> None:
    """Drop the removed nodes, and put constants where their results were read.

    A sum with zero and a product with one disappear. What else is affine is put into the constants of the node that
    makes the other operand (its bias, its weights), where nothing else reads that; else a small constant stays.

    Args:
        edit: where.
        analysis: the model's.
        cut: what goes.
    """
    gaps = _Gaps(edit, analysis, cut)
    for node in analysis.graph.nodes:
        if node.name in cut.gone:
            edit.drop(node)
        elif node.name in cut.losses:
            gaps.close(node)


@dataclass(frozen=True, slots=True)
class ConstantValues:
    """Constants that replace removed tensors; implements `ops.traits.ChannelValues`.

    Attributes:
        axis: the axis of channels.
        values: small arrays of the tensors' rank, which vary along no other axis.
    """

    axis: int
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant; None where the tensor is computed or omitted."""
        return self.values.get(name)

    def per_channel(self, name: str) -> np.ndarray | None:
        """A constant as `(C,)` (or one number for all channels); None where it has another form."""
        return None if name not in self.values else self.values[name].reshape(-1)


class _Gaps:
    def __init__(self, edit: GraphEdit, analysis: Analysis, cut: Cut) -> None:
        self._edit, self._analysis, self._cut = edit, analysis, cut
        self._graph = analysis.graph
        self._bypassed: dict[str, str] = {}

    def close(self, node: Node) -> None:
        """Adapt a node that lost some of its inputs."""
        left = [name for name in node.inputs if name and name not in self._cut.losses[node.name]]
        if handler_of(node.op_type).joins:
            if len(left) == 1:
                self._bypass(node, left[0])
            return
        for name in node.inputs:
            if name in self._cut.constants:
                self._edit.set_value(name, self._cut.constants[name])
        change = self._change(node)
        if change is None or len(left) != 1 or self._analysis.value(left[0]) is not None:
            return
        if change.is_identity or self._absorbed(left[0], change):
            self._bypass(node, left[0])

    def _bypass(self, node: Node, source: str) -> None:
        self._bypassed[node.name] = source
        self._edit.bypass(node, source)

    def _change(self, node: Node) -> Change | None:
        """The affine change that the node makes to its remaining operand; None where it is not affine."""
        shapes = self._analysis.facts.shapes
        lost = [position for position, name in enumerate(node.inputs) if name in self._cut.constants]
        if len(node.inputs) != 2 or len(lost) != 1 or shapes[node.input(1 - lost[0])] != shapes[node.output()]:
            return None
        value = self._cut.constants[node.input(lost[0])]
        varying = [axis + len(shapes[node.output()]) - value.ndim for axis, size in enumerate(value.shape) if size > 1]
        if len(varying) > 1 or value.dtype.kind != "f":
            return None
        axis = varying[0] if varying else None
        affine = handler_of(node.op_type).affine(
            node, 1 - lost[0], ConstantValues(0 if axis is None else axis, {node.input(lost[0]): value})
        )
        if affine is None:
            return None
        values = value.reshape(-1).astype(np.float64)
        shift = np.zeros(len(values)) if affine.shift is None else affine.sign * values
        return Change(axis, np.broadcast_to(affine.slope, values.shape), shift)

    def _absorbed(self, tensor: str, change: Change) -> bool:
        """Whether the producer of a tensor, or of one of its summands, could take an affine change over."""
        producer = self._graph.producer.get(tensor)
        if producer is None or not self._is_read_once(tensor) or self._analysis.facts.is_folded(producer):
            return False
        if producer.name in self._bypassed:
            return self._absorbed(self._bypassed[producer.name], change)
        rewrite = Rewrite(producer, self._edit, self._analysis, self._cut.removed)
        if handler_of(producer.op_type).absorb(producer, rewrite, change):
            return True
        if not change.only_shifts:
            return False
        for name in producer.inputs:
            if self._adds(producer, name) and self._absorbed(name, change):
                self._edit.rename(name)  # it holds something else now
                return True
        return False

    def _is_read_once(self, tensor: str) -> bool:
        """Whether exactly one remaining node reads a tensor, through one input, and no model output does."""
        readers = [node for node in self._graph.consumers.get(tensor, ()) if node.name not in self._cut.gone]
        return len(readers) == 1 and readers[0].inputs.count(tensor) == 1 and tensor not in self._graph.outputs

    def _adds(self, node: Node, name: str) -> bool:
        """Whether a node adds an operand of its own shape to another one."""
        shapes = self._analysis.facts.shapes
        handler = handler_of(node.op_type)
        if (
            handler.flow(node) is not Flow.ELEMENTWISE
            or len(node.inputs) != 2
            or shapes.get(name) != shapes[node.output()]
        ):
            return False
        affine = handler.affine(node, node.inputs.index(name), ConstantValues(0))
        return node.inputs.count(name) == 1 and affine is not None and bool(np.all(affine.slope == 1))
