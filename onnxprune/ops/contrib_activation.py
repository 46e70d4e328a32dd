"""Activations that onnxruntime's optimisers write, with and without a bias that is added first."""

from collections.abc import Iterator

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, pass_through
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels

_DOMAIN = "com.microsoft"


class BiasedActivation(OpHandler):
    """Elementwise; a bias runs over the last axis."""

    op_types = tuple(f"{_DOMAIN}.{name}" for name in ("Gelu", "BiasGelu", "FastGelu", "QuickGelu"))

    def couple(self, node: Node, labels: Labels) -> None:
        """Labels pass, also to the bias."""
        source, bias = node.input(0), node.input(1)
        pass_through(labels, node, source, node.output())
        ids = labels.axis(source, -1)
        if bias and labels.is_constant(bias):
            labels.set(bias, 0, ids)
        elif bias:
            labels.freeze_node(node, f"the bias of {node.op_type} is computed")

    def trained(self, node: Node) -> tuple[str, ...]:
        """The bias."""
        return node.inputs[1:]

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Behind a hidden layer."""
        for op_type, bias in (("Gelu", ""), ("BiasGelu", ", b1"), ("FastGelu", ", b1"), ("QuickGelu", "")):
            yield example(
                f"""g (float[N,5,6] x) => (float[N,5,3] y) {{
                h = MatMul (x, w1)
                a = {_DOMAIN}.{op_type} (h{bias})
                y = MatMul (a, w2) }}""",
                {"w1": (6, 8), "w2": (8, 3)} | ({"b1": (8,)} if bias else {}),
                full_check=False,
                domain=_DOMAIN,
            )
