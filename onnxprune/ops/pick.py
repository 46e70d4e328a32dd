"""GatherND: entries picked by indices, which may be computed."""

from collections.abc import Iterator
from math import inf

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels


class Pick(OpHandler):
    """GatherND: axes that are indexed keep their channels; axes behind them are passed on whole."""

    op_types = ("GatherND",)
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Keep the channels on indexed axes and on batch axes."""
        source, indices, output = node.input(0), node.input(1), node.output()
        indexed = node.int("batch_dims", 0) + labels.shape(indices)[-1]
        behind = labels.rank(output) - labels.rank(source)
        for axis, ids in enumerate(labels.get(source)):
            if axis < indexed:
                labels.freeze_ids(ids, source, "GatherND picks positions of these channels", node)
            else:
                labels.set(output, axis + behind, ids)

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: indexing by as many indices as there are columns; rows of a batch apart have no rule."""
        return None if node.int("batch_dims", 0) else lambda x, indices: x[tuple(indices.to(x.device).movedim(-1, 0))]

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: one position of several, with channels behind."""
        yield example(
            """g (float[N,5,6] x) => (float[A,5,3] y) {
            h = MatMul (x, w1)
            p = GatherND (h, first)
            y = MatMul (p, w2) }""",
            {"w1": (6, 8), "w2": (8, 3)},
            {"first": np.array([[0]])},
        )
