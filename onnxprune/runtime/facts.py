"""Shapes and constant values of a model's tensors, with onnxruntime asked where inference finds nothing."""

from collections.abc import Mapping

import numpy as np

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph
from onnxprune.graph.operators import OpenShapes
from onnxprune.graph.shapes import Facts
from onnxprune.ops import facts
from onnxprune.runtime.apart import Apart


def gather_facts(
    model: Model,
    graph: Graph,
    input_shapes: OpenShapes | None = None,
    feed: Mapping[str, np.ndarray] | None = None,
) -> Facts:
    """Infer the shapes of all tensors at concrete input sizes, and compute all constant values.

    Args:
        model: the model.
        graph: its nodes.
        input_shapes: shapes of the inputs as far as they are told; other sizes are guessed.
        feed: inputs to run the model on where nothing else tells a shape; random ones by default.

    Raises:
        ModelError: shape inference finds a contradiction for every size tried.
    """
    return facts.gather_facts(model, graph, input_shapes, Apart(model, graph, feed))
