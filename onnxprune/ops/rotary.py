"""RotaryEmbedding: turns pairs of positions within each head; whole heads go."""

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, Rewriting
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels

_CONTRIB = "com.microsoft.RotaryEmbedding"


class RotaryEmbedding(OpHandler):
    """Input `(B, S, heads * width)` or `(B, heads, S, width)`; the tables hold half a head's width, or less."""

    op_types = ("RotaryEmbedding", _CONTRIB)
    keeps_shape = True

    def couple(self, node: Node, labels: Labels) -> None:
        """Heads pass; rows, positions within a head, and whatever lies on the tables stay."""
        source, output = node.input(0), node.output()
        arrays, heads = labels.get(source), self._heads(node, labels)
        for name in filter(None, node.inputs[1:]):
            for ids in labels.get(name):
                labels.freeze_ids(ids, name, f"{node.op_type} reads positions and angles from it", node)
        along = 1 if len(arrays) == 4 else 2
        for axis, ids in enumerate(arrays):
            if ids is None:
                continue
            if axis != along or heads is None:
                labels.freeze_ids(ids, source, f"{node.op_type} depends on the order of these channels", node)
                continue
            grid = ids.reshape(heads, -1)
            for column in grid.T:
                labels.tie(grid[:, 0], column)
            labels.set(output, axis, ids)

    @staticmethod
    def _heads(node: Node, labels: Labels) -> int | None:
        """The number of heads; None where it is not known."""
        shape = labels.shape(node.input(0))
        if len(shape) == 4:
            return shape[1]
        table = labels.shape(node.input(2 if node.op_type == _CONTRIB else 1))
        given = node.int("num_heads", 0)
        if not given and (node.int("rotary_embedding_dim", 0) or not table or not table[-1]):
            return None
        heads = given or shape[-1] // (2 * table[-1])
        return heads if heads > 0 and shape[-1] % heads == 0 else None

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """As many heads as stay, where the node counts them."""
        given = node.int("num_heads", 0)
        kept = edit.kept(node.output(), 1 if len(edit.shape(node.output()) or ()) == 4 else 2)
        if given and kept is not None:
            edit.set_attribute("num_heads", int(kept.sum()) * given // len(kept))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Heads side by side, and heads on an axis of their own."""
        angles = np.linspace(0, 3, 10, dtype=np.float32).reshape(5, 2)
        tables = {"cosine": np.cos(angles), "sine": np.sin(angles), "places": np.arange(5)[None]}
        weights = {"w1": (6, 12), "w2": (12, 3)}
        yield example(
            f"""g (float[1,5,6] x) => (float[1,5,3] y) {{
            h = MatMul (x, w1)
            r = {_CONTRIB} (h, places, cosine, sine)
            t = {_CONTRIB} <num_heads = 3> (r, places, cosine, sine)
            y = MatMul (t, w2) }}""",
            weights,
            tables,
            full_check=False,
            domain="com.microsoft",
        )
        yield example(
            f"""g (float[1,5,6] x) => (float[1,5,3] y) {{
            h = MatMul (x, w1)
            s = Reshape (h, heads)
            u = Transpose <perm = [0, 2, 1, 3]> (s)
            r = {_CONTRIB} (u, places, cosine, sine)
            v = Transpose <perm = [0, 2, 1, 3]> (r)
            m = Reshape (v, flat)
            y = MatMul (m, w2) }}""",
            weights,
            tables | {"heads": np.array([0, 0, 3, 4]), "flat": np.array([0, 0, 12])},
            full_check=False,
            domain="com.microsoft",
        )
        yield example(
            """g (float[1,5,6] x) => (float[1,5,3] y) {
            h = MatMul (x, w1)
            r = RotaryEmbedding <num_heads = 3> (h, cosine, sine, places)
            y = MatMul (r, w2) }""",
            weights,
            tables,
            opset=23,
        )
