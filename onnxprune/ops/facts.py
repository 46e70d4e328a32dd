"""Shapes and constant values of a model's tensors, inferred with the rules of the operator handlers."""

from collections.abc import Mapping

import numpy as np

from onnxprune.graph import folding, shapes
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node
from onnxprune.graph.operators import OpenShapes, Runtime
from onnxprune.graph.shapes import Facts
from onnxprune.ops import handler_of


def gather_facts(
    model: Model,
    graph: Graph,
    input_shapes: OpenShapes | None = None,
    runtime: Runtime | None = None,
) -> Facts:
    """Infer the shapes of all tensors at concrete input sizes, and compute all constant values.

    Args:
        model: the model.
        graph: its nodes.
        input_shapes: shapes of the inputs as far as they are told; other sizes are guessed.
        runtime: asked for what inference and folding cannot tell; without it, that stays unknown.

    Raises:
        ModelError: shape inference finds a contradiction for every size tried.
    """
    return shapes.infer_facts(model, graph, handler_of, input_shapes, runtime)


def fold_constants(model: Model, graph: Graph) -> dict[str, np.ndarray]:
    """Compute all tensors that depend on constants only."""
    return folding.fold_constants(model, graph, handler_of)


def evaluate(model: Model, node: Node, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Compute one node from the values of its inputs; None where that is not possible."""
    return folding.evaluate(model, node, feeds, handler_of)
