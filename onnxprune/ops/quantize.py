"""QuantizeLinear and DequantizeLinear: scales and zero points follow their channels."""

from collections.abc import Iterator
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule, normal_axis, pass_through
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels


class Quantize(OpHandler):
    """QuantizeLinear and DequantizeLinear: per tensor, per channel, or in blocks (then channels stay)."""

    op_types = ("QuantizeLinear", "DequantizeLinear")
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Labels pass; where the weight is constant, those that its reader gives it pass back."""
        source, output = node.input(0), node.output()
        pass_through(labels, node, source, output)
        axis = normal_axis(node.int("axis", 1), max(1, labels.rank(source)))
        for parameter in filter(None, node.inputs[1:]):
            shape = labels.shape(parameter)
            if len(shape) > 1:
                labels.freeze(source, "it is quantised in blocks", node)
                labels.freeze(output, "it is quantised in blocks", node)
            elif shape and shape[0] > 1:
                ids = labels.axis(output, axis)
                if not labels.is_constant(parameter):
                    labels.freeze_ids(ids, source, f"parameter {parameter!r} is computed", node)
                elif ids is not None:
                    labels.set(parameter, 0, ids)
                else:
                    labels.adapt(output, axis, node, parameter, 0)

    reference_opset = 19

    def decodes(self, node: Node, stored: np.ndarray | None, value: np.ndarray) -> bool:  # noqa: ARG002
        """The node only converts: weights are stored quantised."""
        return True

    def undoes(self, node: Node, maker: Node) -> bool:
        """DequantizeLinear gives back what QuantizeLinear read."""
        return (node.op_type, maker.op_type) == ("DequantizeLinear", "QuantizeLinear")

    def jumps(self, node: Node) -> bool:
        """Not continuous: rounding."""
        return node.op_type == "QuantizeLinear"

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: `(x - zero) * scale`, or rounded, shifted and clipped; gradients pass through the rounding.

        Codes stay floating-point numbers, so that what lies before a quantised activation can be trained.
        """
        import torch

        axis, quantise = node.int("axis", 1), node.op_type == "QuantizeLinear"
        if node.int("block_size", 0) or node.int("output_dtype", 0):
            return None

        def run(x: Any, scale: Any, zero: Any = None) -> Any:
            def along(parameter: Any) -> Any:
                if parameter.numel() == 1:
                    return parameter.reshape(())
                return parameter.reshape([-1 if a == axis % x.dim() else 1 for a in range(x.dim())])

            shift = 0 if zero is None else along(zero).to(scale.dtype)
            if not quantise:
                return (x.to(scale.dtype) - shift) * along(scale)
            limits = torch.iinfo(torch.uint8 if zero is None else zero.dtype)
            codes = torch.clamp(x / along(scale), limits.min - shift, limits.max - shift)
            return shift + codes + (torch.round(codes) - codes).detach()

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a quantised convolution: activation per tensor, weight and bias per channel."""
        rng = np.random.default_rng(0)
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            h = Conv (x, w1)
            q = QuantizeLinear (h, s, z)
            d = DequantizeLinear (q, s, z)
            w = DequantizeLinear <axis = 0> (w2q, w2s, w2z)
            b = DequantizeLinear <axis = 0> (b2q, b2s)
            c = Conv (d, w, b)
            r = Relu (c)
            y = Conv (r, w3) }""",
            {"w1": (8, 3, 1, 1), "w3": (4, 6, 1, 1)},
            {
                "s": np.array(0.05, np.float32),
                "z": np.array(3, np.int8),
                "w2q": rng.integers(-127, 128, (6, 8, 1, 1)).astype(np.int8),
                "w2s": rng.uniform(0.01, 0.02, 6).astype(np.float32),
                "w2z": np.zeros(6, np.int8),
                "b2q": rng.integers(-500, 500, 6).astype(np.int32),
                "b2s": rng.uniform(0.001, 0.002, 6).astype(np.float32),
            },
        )
