"""Concat and Split: concatenate and separate channels."""

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import pieces
from onnxprune.ops.base import Backward, OpHandler, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.torch_tools import integers
from onnxprune.ops.traits import Carried, ChannelUse


class Concat(OpHandler):
    """Concat: joins the channels of its inputs along one axis, and ties them along the other axes."""

    op_types = ("Concat",)
    joins = True
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Parts without labels count as fixed channels; parts that nobody reads may become narrower than the others."""
        output = node.output()
        shape = labels.shape(output)
        axis = normal_axis(node.int("axis", 0), len(shape))
        parts = [labels.axis(name, axis) for name in node.inputs]
        if any(ids is not None for ids in parts):
            joined: list[Ids] = []
            for name, ids in zip(node.inputs, parts, strict=True):
                fixed = labels.fixed(labels.shape(name)[axis])
                if ids is None and labels.adapts(name, axis):
                    labels.set(name, axis, fixed)
                joined.append(fixed if ids is None else ids)
            labels.set(output, axis, np.concatenate(joined))
        unread = self._unread(node, labels, axis)
        for name in unread:
            labels.leave(node, name)
        for other in range(len(shape)):
            if other != axis:
                self._tie(node, labels, other, unread)

    def _unread(self, node: Node, labels: Labels, axis: int) -> set[str]:
        """Parts that no node behind reads, and that a part of the same length can stand for: see `rewrite`."""
        read = labels.read_positions(node.output(), axis)
        sizes = [labels.shape(name)[axis] for name in node.inputs]
        if read is None or labels.axis(node.output(), axis) is not None:
            return set()
        parts = dict(zip(node.inputs, np.split(read, np.cumsum(sizes)[:-1]), strict=True))
        lengths = {len(part) for part in parts.values() if part.any()}
        return {n for n, part in parts.items() if not part.any() and len(part) in lengths and not labels.is_constant(n)}

    def _tie(self, node: Node, labels: Labels, axis: int, unread: set[str]) -> None:
        parts = [(name, labels.axis(name, axis)) for name in dict.fromkeys(node.inputs) if name not in unread]
        present = [ids for name, ids in parts if ids is not None]
        if not present and all(labels.adapts(name, axis) for name, _ in parts):
            for name, _ in parts:
                labels.adapt(node.output(), axis, node, name, axis)
        for name, ids in parts:
            if not present:
                return
            if ids is None and labels.adapts(name, axis):
                labels.set(name, axis, present[0])
            elif ids is None:
                for one in present:
                    labels.freeze_ids(one, node.output(), f"joined with {name!r}, which is not prunable", node)
            else:
                labels.tie(present[0], ids)
        labels.set(node.output(), axis, present[0])

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """A part without channels is left out; one that nobody reads gives way to one that is as wide as the result."""
        shape = edit.shape(node.output())
        if not shape:
            return
        axis = normal_axis(node.int("axis", 0), len(shape))
        others = [other for other in range(len(shape)) if other != axis]

        def sizes(name: str) -> list[int]:
            widths = [(edit.width(name, other), (edit.shape(name) or shape)[other]) for other in others]
            return [size if width is None else width for width, size in widths]

        def fits(name: str) -> bool:
            return sizes(name) == sizes(node.output())

        lengths = {name: (edit.shape(name) or shape)[axis] for name in node.inputs}
        for position, name in enumerate(node.inputs):
            if not fits(name):
                alike = (n for n in node.inputs if fits(n) and lengths[n] == lengths[name])
                edit.read_instead(position, next(alike, name))
            if edit.width(name, axis) == 0:
                edit.drop_input(position)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: the slice that belongs to each part."""
        axis = normal_axis(node.int("axis", 0), len(back.shape(node.output())))
        sizes = [back.shape(name)[axis] for name in node.inputs]
        for name, part in zip(
            node.inputs, pieces(back, back.gradient(node.output()), sizes, axis, node.opset), strict=True
        ):
            if back.needs(name):
                back.add(name, part)
        return True

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """Joined by numpy."""
        return np.concatenate(inputs, axis=node.int("axis", 1 if node.opset < 4 else 0))

    def moves(self, node: Node) -> tuple[int, ...]:
        """Moves the values of all inputs."""
        return tuple(range(len(node.inputs)))

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:
        """Operands of a join along images' channels, which may stay in blocks of channels."""
        rank = labels.rank(node.output())
        if rank != 4 or normal_axis(node.int("axis", 0), rank) != 1:
            return ()
        return tuple((ChannelUse.JOINED, labels.axis(name, 1)) for name in node.inputs)

    def carried(self, node: Node, axis: int, widths: Sequence[int], shape: Sequence[int]) -> Carried | None:
        """The channels of one part after those of another, where they are joined."""
        joined = normal_axis(node.int("axis", 0), len(shape)) == axis
        return Carried(axis, np.arange(sum(widths))) if joined else None

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same concatenation."""
        import torch

        return lambda *parts: torch.cat(parts, node.int("axis", 0))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: branches of different width, and the input itself."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            i = Conv (x, w2)
            c = Concat <axis = 1> (h, x, i)
            y = Conv (c, w3) }""",
            {"w1": (8, 3, 1, 1), "w2": (5, 3, 1, 1), "w3": (4, 16, 3, 3)},
        )


class Split(OpHandler):
    """Split: gives each output its consecutive slice of the channels."""

    op_types = ("Split",)
    joins = True
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Each output gets its slice of the channels."""
        source = node.input(0)
        axis = normal_axis(node.int("axis", 0), labels.rank(source))
        arrays = labels.get(source)
        along = arrays[axis]
        if along is not None and node.input(1) and labels.constant(node.input(1)) is None:
            labels.freeze_node(node, "sizes of Split are computed")
            return
        if along is not None and not all(node.outputs):
            labels.freeze_node(node, "an output of Split is not used")
            return
        start = 0
        for output in filter(None, node.outputs):
            size = labels.shape(output)[axis]
            for other in range(len(arrays)):
                if other == axis:
                    labels.set(output, axis, None if along is None else along[start : start + size])
                else:
                    labels.follow(node, source, other, output, other)
            start += size

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: the sizes count the channels that stay."""
        shape = edit.shape(node.input(0)) or ()
        axis = normal_axis(node.int("axis", 0), len(shape))
        widths = [edit.width(output, axis) for output in node.outputs]
        if any(width is None for width in widths):
            return
        for position, width in enumerate(widths):
            if width == 0:
                edit.drop_output(position)
        widths = [width for width in widths if width]
        if node.opset >= 13:
            edit.set_input(1, np.array(widths, np.int64))
            edit.set_attribute("num_outputs", None)
        else:
            edit.set_attribute("split", widths)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: the parts joined again."""
        source = node.input(0)
        if not all(node.outputs):
            return False
        if back.needs(source):
            axis = normal_axis(node.int("axis", 0), len(back.shape(source)))
            back.add(source, back.node("Concat", [back.gradient(name) for name in node.outputs], axis=axis))
        return True

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """In torch: split by sizes from the attribute or the input, else equal ones (the last may be smaller)."""
        axis, count = node.int("axis", 0), len(node.outputs)

        def run(x: Any, sizes: Any = None) -> Any:
            widths = node.ints("split") if sizes is None else integers(sizes)
            return x.split(list(widths) if widths else -(-x.shape[axis] // count), axis)

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: two uneven parts that go different ways."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            a, b = Split <axis = 1> (h, sizes)
            p = Conv (a, w2)
            q = Conv (b, w3)
            y = Add (p, q) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 5, 1, 1), "w3": (4, 3, 1, 1)},
            {"sizes": np.array([5, 3])},
        )
