"""What is known of tensors before any label is placed: `graph` finds it out, the handlers answer its questions."""

from collections.abc import Mapping

import numpy as np

from onnxprune.graph import folding, shapes
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.operators import Runtime, Shape
from onnxprune.graph.shapes import Facts
from onnxprune.ops import handler_of


def gather_facts(
    model: Model, graph: Graph, input_shapes: Mapping[str, Shape] | None = None, runtime: Runtime | None = None
) -> Facts:
    """Infer shapes with pinned inputs and fold what is constant.

    Args:
        model: the model.
        graph: its nodes.
        input_shapes: shapes of the inputs where the user's data tell them; others are guessed.
        runtime: asked for what inference and folding cannot tell; without it, that stays unknown.

    Raises:
        ModelError: shape inference finds a contradiction for every size tried.
    """
    return shapes.infer_facts(model, graph, handler_of, input_shapes, runtime)


def fold_constants(model: Model, graph: Graph) -> dict[str, np.ndarray]:
    """Values of all tensors that are computed from constants only."""
    return folding.fold_constants(model, graph, handler_of)


def evaluate(model: Model, node: Node, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Compute one node from the values of its inputs; None where that cannot be done."""
    return folding.evaluate(model, node, feeds, handler_of)
