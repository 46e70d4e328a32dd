"""Operators of shape arithmetic, and those that fill or repeat to a size (Shape, Expand, Tile, ...)."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import unbroadcast
from onnxprune.ops.base import Backward, OpHandler, Rewriting, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels

_VIEW_LIMIT = 1 << 31


class Shape(OpHandler):
    """Shape and Size: give the sizes of a tensor as integers.

    What becomes of these integers is followed by `structure.shape_arithmetic`.
    """

    op_types = ("Shape", "Size")

    def couple(self, node: Node, labels: Labels) -> None:
        """Reading a size ties no channels; where the size varies and counts a pruned axis, the channels stay."""
        labels.leave(node, node.input(0))
        if node.op_type == "Size" and not labels.is_constant(node.output()):
            for ids in labels.get(node.input(0)):
                labels.freeze_ids(ids, node.input(0), "Size counts these channels", node)

    def reads_shape(self, node: Node) -> bool:  # noqa: ARG002
        """These operators read the shape of a tensor, never its values."""
        return True

    def shape_value(self, node: Node, shape: tuple[int, ...]) -> np.ndarray:
        """The sizes of the axes from `start` to `end` (Shape), or their product (Size)."""
        if node.op_type == "Size":
            return np.array(np.prod(shape, dtype=np.int64), np.int64)
        end = node.attributes.get("end")
        return np.array(shape[node.int("start", 0) : None if end is None else int(end)], np.int64)

    def torch(self, node: Node) -> TorchRule:
        """In torch: a tensor of integers on the CPU, where shape arithmetic stays."""
        import torch

        if node.op_type == "Size":
            return lambda x: torch.tensor(x.numel())
        start, end = node.int("start", 0), node.attributes.get("end")
        return lambda x: torch.tensor(x.shape[start : None if end is None else int(end)], dtype=torch.int64)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Flatten as exporters write it; a scale that depends on the width; a slice of half the channels."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv (x, w1)
            s = Shape (h)
            n = Gather (s, first)
            u = Unsqueeze (n, zero)
            t = Concat <axis = 0> (u, rest)
            f = Reshape (h, t)
            c = Gather (s, second)
            k = Cast <to = 1> (c)
            q = Sqrt (k)
            g = Div (f, q)
            y = Gemm (g, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (8 * 16, 4)},
            {"first": np.array(0), "second": np.array(1), "zero": np.array([0]), "rest": np.array([-1])},
        )
        yield example(
            """g (float[2,3,H,W] x) => (float[2,4,A,B] y) {
            h = Conv (x, w1)
            s = Shape (h)
            c = Gather (s, second)
            d = Div (c, two)
            e = Slice (h, start, d, second)
            t = Concat <axis = 0> (nchw, d, nchw, nchw)
            p = ReduceMax <axes = [2, 3]> (h)
            q = Size (p)
            k = Cast <to = 1> (q)
            m = Div (e, k)
            y = Conv (m, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 4, 1, 1)},
            {"second": np.array([1]), "two": np.array([2]), "start": np.array([0]), "nchw": np.array([1])},
        )
        yield example(
            """g (float[N,3,H,W] x) => (float[N,4,A] y) {
            h = Conv (x, w1)
            s = Shape (h)
            i, j = Split <axis = 0> (s, pair)
            t = Concat <axis = 0> (i, free)
            f = Reshape (h, t)
            y = Conv (f, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1)},
            {"pair": np.array([2, 2]), "free": np.array([-1])},
        )


class ConstantOfShape(OpHandler):
    """ConstantOfShape: one value at every position. Its axes get the channels that readers give them."""

    op_types = ("ConstantOfShape",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Axes of known size adapt to the tensors they meet."""
        target, value = labels.sizes(node.input(0)), node.attributes.get("value")
        if value is None or not np.any(value):
            labels.set_zero(node.output())
        for axis in range(labels.rank(node.output())):
            if target is not None and not target.free[axis]:
                labels.adapt(node.output(), axis, node)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: sizes of labelled axes."""
        rank = len(edit.shape(node.output()) or ())
        widths = {axis: edit.width(node.output(), axis) for axis in range(rank)}
        edit.set_elements(0, {axis: width for axis, width in widths.items() if width is not None})

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Evaluated in the analysis at any size, as the value takes no memory."""
        sizes = inputs[0].ravel().tolist()
        return min(sizes, default=0) >= 0 and prod(sizes) <= _VIEW_LIMIT

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """The value, broadcast to the shape without copying."""
        value = node.attributes.get("value")
        filler = np.zeros(1, np.float32) if value is None else np.asarray(value)
        return np.broadcast_to(filler.reshape(()), [int(size) for size in inputs[0].ravel()])

    def torch(self, node: Node) -> TorchRule:
        """In torch: a full tensor."""
        import torch

        value = node.attributes.get("value")
        filler = torch.zeros(1) if value is None else torch.from_numpy(np.array(value))

        def run(shape: Any) -> Any:
            return filler.to(shape.device).reshape(()).expand([int(size) for size in shape]).clone()

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: zeros of the batch's size, concatenated to an activation."""
        yield example(
            """g (float[N,5,6] x) => (float[N,A,3] y) {
            h = MatMul (x, w1)
            s = Shape (x)
            n = Slice (s, zero, one)
            t = Concat <axis = 0> (n, rest)
            z = ConstantOfShape <value = float[1] {0.5}> (t)
            c = Concat <axis = 1> (z, h)
            y = MatMul (c, w2) }""",
            {"w1": (6, 8), "w2": (8, 3)},
            {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([1, 8])},
        )


class Expand(OpHandler):
    """Expand broadcasts to a shape, which may be constant or computed from the batch."""

    op_types = ("Expand",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Axes that keep their size keep their channels; broadcast axes adapt to the tensors they meet."""
        source, output, target = node.input(0), node.output(), labels.sizes(node.input(1))
        if target is None:
            labels.freeze_node(node, "the target shape is computed from data while the model runs")
            return
        before, after = labels.shape(source), labels.shape(output)
        shift = len(after) - len(before)
        for axis, size in enumerate(after):
            source_axis = axis - shift
            ids = labels.axis(source, source_axis) if source_axis >= 0 else None
            if source_axis >= 0 and before[source_axis] == size:
                labels.follow(node, source, source_axis, output, axis)
            else:
                labels.freeze_ids(ids, source, "the only channel of an axis that is broadcast", node)
                if not labels.is_free(output, axis):
                    labels.adapt(output, axis, node)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal, a target size of 1 stands for the source's width."""
        before, after = edit.shape(node.input(0)) or (), edit.shape(node.output()) or ()
        target = edit.sizes(node.input(1))
        if target is None:
            return
        changed = {}
        for axis, size in enumerate(after):
            source_axis, index = axis - (len(after) - len(before)), axis - (len(after) - len(target.value))
            width = edit.width(node.output(), axis)
            if width is not None and index >= 0 and target.value[index] != 1:
                changed[index] = 1 if source_axis >= 0 and before[source_axis] == size else width
        if changed and any(edit.width(node.output(), axis) != size for axis, size in enumerate(after)):
            edit.set_elements(1, changed)

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Evaluated in the analysis where the result has few elements."""
        return _elements(inputs[-1]) <= limit

    def torch(self, node: Node) -> TorchRule:  # noqa: ARG002
        """In torch: broadcasting with a tensor of that shape."""
        import torch

        def run(x: Any, shape: Any) -> Any:
            sizes = torch.broadcast_shapes(tuple(x.shape), tuple(int(size) for size in shape))
            return x.expand(sizes)

        return run

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: the sum over what was repeated."""
        source, y = node.input(0), node.output()
        if back.needs(source):
            back.add(source, unbroadcast(back, back.gradient(y), back.shape(y), back.shape(source)))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a class token; a scale broadcast over positions."""
        yield example(
            """g (float[N,5,6] x) => (float[N,A,3] y) {
            h = MatMul (x, w1)
            s = Shape (x)
            n = Slice (s, zero, one)
            t = Concat <axis = 0> (n, rest)
            z = Expand (token, t)
            c = Concat <axis = 1> (z, h)
            y = MatMul (c, w2) }""",
            {"w1": (6, 8), "w2": (8, 3), "token": (1, 1, 8)},
            {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([1, 8])},
        )
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,4,4] y) {
            h = Conv (x, w1)
            m = ReduceMax <axes = [2, 3]> (h)
            e = Expand (m, shape)
            r = ReduceMean <axes = [1]> (x)
            u = ReduceMean <axes = [2, 3]> (r)
            v = Expand (u, shape)
            a = Mul (h, e)
            b = Add (a, v)
            y = Conv (b, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)},
            {"shape": np.array([1, 8, 4, 4])},
        )


class Tile(OpHandler):
    """Tile repeats the labels of an axis."""

    op_types = ("Tile",)

    def couple(self, node: Node, labels: Labels) -> None:
        """A channel axis is repeated; the number of repeats must be known."""
        source, output, repeats = node.input(0), node.output(), labels.sizes(node.input(1))
        if repeats is None:
            labels.freeze_node(node, "repeats are computed from data while the model runs")
            return
        for axis, ids in enumerate(labels.get(source)):
            if repeats.value[axis] == 1:
                labels.follow(node, source, axis, output, axis)
            else:
                labels.set(output, axis, None if ids is None else np.tile(ids, int(repeats.value[axis])))

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Evaluated in the analysis where the repeated data have few elements."""
        return _elements(inputs[-1]) * inputs[0].size <= limit

    def torch(self, node: Node) -> TorchRule:  # noqa: ARG002
        """In torch: the same repetition."""

        def run(x: Any, repeats: Any) -> Any:
            return x.repeat([int(count) for count in repeats])

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: channels repeated twice."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            t = Tile (h, repeats)
            y = Conv (t, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 16, 1, 1)},
            {"repeats": np.array([1, 2, 1, 2])},
        )


def _elements(shape: np.ndarray) -> float:
    """Number of elements of a tensor of this shape; infinite where this is no shape."""
    if shape.dtype.kind not in "iu" or shape.size > 16:
        return np.inf
    return float(np.prod(np.abs(shape.ravel().astype(float))))
