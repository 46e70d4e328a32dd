"""Dropout, as networks have it that were exported before or in spite of inference."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Backward, Known, OpHandler, TorchRule, pass_through
from onnxprune.ops.labels import Labels
from onnxprune.ops.traits import Affine, ChannelValues, Flow, Range


class Dropout(OpHandler):
    """Dropout: does nothing in inference; its mask has the data's shape.

    Networks that ask for training mode (Monte Carlo dropout) draw anew in every run: channels pass through, and
    nothing is said of values.
    """

    op_types = ("Dropout",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Data and mask have the input's channels."""
        pass_through(labels, node, node.input(0), *node.outputs)

    def moves(self, node: Node) -> tuple[int, ...]:
        """Moves the values of the first input."""
        return () if _may_train(node) else (0,)

    def deterministic(self, node: Node) -> bool:
        """Whether there is no training mode to ask for."""
        return not _may_train(node)

    def flow(self, node: Node) -> Flow | None:
        """Each output element is the same input element (identity in inference)."""
        return None if _may_train(node) else Flow.ELEMENTWISE

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:
        """The bounds of the data."""
        return None if _may_train(node) else operands[0]

    def affine(self, node: Node, position: int, values: ChannelValues) -> Affine | None:  # noqa: ARG002
        """As an affine function: the identity, where no mask is read."""
        return None if node.output(1) or _may_train(node) else Affine()

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: the data as they are."""
        return None if node.output(1) or _may_train(node) else known.value(node.input(0))

    def torch(self, node: Node) -> TorchRule | None:
        """Returns the data unchanged, also in training: the network is trained as it will run."""
        import torch

        return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool)) if node.output(1) else x

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: passed on unchanged."""
        if _may_train(node):
            return False
        if back.needs(node.input(0)):
            back.add(node.input(0), back.gradient(node.output()))
        return True


def _may_train(node: Node) -> bool:
    return node.opset >= 12 and bool(node.input(2))
