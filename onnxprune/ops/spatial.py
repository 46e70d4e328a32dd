"""Operators that turn channels into positions or back (DepthToSpace, SpaceToDepth), or sample positions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels


class DepthToSpace(OpHandler):
    """DepthToSpace (pixel shuffle): channels that become one channel are removed together."""

    op_types = ("DepthToSpace",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the channels that become one; modes DCR and CRD order them differently."""
        ids = labels.axis(node.input(0), 1)
        if ids is None:
            return
        block = node.int("blocksize", 1) ** 2
        rows = ids.reshape(-1, block).T if _blocks_inside(node) else ids.reshape(block, -1)
        for row in rows[1:]:
            labels.tie(rows[0], row)
        labels.set(node.output(), 1, np.ascontiguousarray(rows[0]))

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """In torch: six axes, permuted."""
        b = node.int("blocksize", 1)

        def run(x: Any) -> Any:
            n, c, h, w = x.shape
            if _blocks_inside(node):
                y = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
            else:
                y = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
            return y.reshape(n, c // b**2, h * b, w * b)

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: both modes."""
        for mode in ("DCR", "CRD"):
            yield example(
                f"""g (float[N,3,6,6] x) => (float[N,4,A,B] y) {{
                h = Conv (x, w1)
                d = DepthToSpace <blocksize = 2, mode = "{mode}"> (h)
                y = Conv (d, w2) }}""",
                {"w1": (16, 3, 3, 3), "w2": (4, 4, 1, 1)},
            )


class SpaceToDepth(OpHandler):
    """SpaceToDepth: each channel appears once for every position of the block."""

    op_types = ("SpaceToDepth",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Repeat the channels for every position of the block."""
        ids = labels.axis(node.input(0), 1)
        labels.set(node.output(), 1, None if ids is None else np.tile(ids, node.int("blocksize", 1) ** 2))

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """In torch: six axes, permuted."""
        b = node.int("blocksize", 1)

        def run(x: Any) -> Any:
            n, c, h, w = x.shape
            y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
            return y.reshape(n, c * b**2, h // b, w // b)

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: between two convolutions."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,2,2] y) {
            h = Conv (x, w1)
            d = SpaceToDepth <blocksize = 2> (h)
            y = Conv (d, w2) }""",
            {"w1": (5, 3, 3, 3), "w2": (4, 20, 1, 1)},
        )


class Sample(OpHandler):
    """GridSample and RoiAlign: sample the same positions of every channel."""

    op_types = ("GridSample", "RoiAlign", "MaxRoiPool")

    def couple(self, node: Node, labels: Labels) -> None:
        """Channels are passed on; positions and grids must not be channels."""
        source = node.input(0)
        for axis, ids in enumerate(labels.get(source)):
            if axis != 1:
                labels.freeze_ids(ids, source, f"{node.op_type} mixes these positions", node)
        for name in node.inputs[1:]:
            for ids in labels.get(name):
                labels.freeze_ids(ids, name, f"coordinates of {node.op_type}", node)
        labels.set(node.output(), 1, labels.axis(source, 1))

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: sampling on a grid; regions have no rule."""
        from torch.nn import functional

        if node.op_type != "GridSample":
            return None
        given = _text(node, "mode", "linear")
        mode = {"linear": "bilinear", "cubic": "bicubic"}.get(given, given)
        padding, align = _text(node, "padding_mode", "zeros"), bool(node.int("align_corners", 0))
        return lambda x, grid: functional.grid_sample(x, grid, mode, padding, align)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a fixed grid."""
        yield example(
            """g (float[1,3,6,6] x) => (float[1,4,2,2] y) {
            h = Conv (x, w1)
            s = GridSample (h, grid)
            y = Conv (s, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1), "grid": (1, 2, 2, 2)},
        )


def _blocks_inside(node: Node) -> bool:
    return _text(node, "mode", "DCR") == "CRD"


def _text(node: Node, name: str, default: str) -> str:
    value = node.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)
