"""Slice and Gather: select positions along axes."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import selected_back
from onnxprune.ops.base import Backward, OpHandler, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Product
from onnxprune.ops.torch_tools import select


class Slice(OpHandler):
    """Slice with constant limits."""

    op_types = ("Slice",)
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Slice the channel ids like the data."""
        source, output = node.input(0), node.output()
        before, after = labels.shape(source), labels.shape(output)
        arrays = labels.get(source)
        limits = slice_limits(node, labels.constant, len(before))
        for axis, ids in enumerate(arrays):
            if limits is not None and axis not in limits:
                labels.follow(node, source, axis, output, axis)
            elif ids is None:
                continue
            elif limits is None:
                labels.freeze_ids(ids, source, "limits of Slice are computed", node)
                if before[axis] == after[axis]:
                    labels.set(output, axis, ids)
            else:
                if limits[axis].step not in (1, None):
                    labels.freeze_ids(ids, source, "Slice steps over these channels", node)
                labels.set(output, axis, ids[limits[axis]])

    def reads(self, node: Node, axis: int, labels: Labels) -> np.ndarray | None:
        """The positions between constant limits are read."""
        limits = slice_limits(node, labels.constant, labels.rank(node.input(0)))
        if limits is None or axis not in limits:
            return None
        mask = np.zeros(labels.shape(node.input(0))[axis], bool)
        mask[limits[axis]] = True
        return mask

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: limits on labelled axes count the positions that stay before them."""
        shape = edit.shape(node.input(0)) or ()
        limits = slice_limits(node, edit.constant, len(shape))
        if limits is None:
            return
        stored = edit.constant(node.input(2)) if node.opset >= 10 else None
        beyond_the_first = np.iinfo(np.int64 if stored is None else stored.dtype).min
        starts, ends, changed = [], [], False
        for axis, limit in limits.items():
            start, end, step = limit.start, limit.stop, limit.step
            kept = edit.kept(node.input(0), axis)
            if kept is not None and step in (1, None):
                first, last, _ = limit.indices(shape[axis])
                start, end, changed = int(kept[:first].sum()), int(kept[: max(first, last)].sum()), True
            starts.append(start)
            ends.append(beyond_the_first if end is None else end)
        if not changed:
            return
        if node.opset >= 10:
            edit.set_input(1, np.array([0 if s is None else s for s in starts], np.int64))
            edit.set_input(2, np.array(ends, np.int64))
            if node.input(3):
                edit.set_input(3, np.array(list(limits), np.int64))
            if node.input(4):
                edit.set_input(4, np.array([limit.step for limit in limits.values()], np.int64))
        else:
            edit.set_attribute("starts", starts)
            edit.set_attribute("ends", ends)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: at the positions that were taken, zeros elsewhere."""
        source, shape = node.input(0), back.shape(node.input(0))
        limits = slice_limits(node, back.value, len(shape))
        if limits is None:
            return False
        if back.needs(source):
            gradient = back.gradient(node.output())
            for axis, limit in limits.items():
                taken = np.arange(shape[axis])[limit]
                if axis == 0 and len(taken) != shape[0]:
                    return False
                if axis > 0:
                    gradient = selected_back(back, gradient, len(shape), axis, taken, shape[axis])
            back.add(source, gradient)
        return True

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """In torch: slice axis by axis; torch has no negative steps, so those select by position."""

        def run(x: Any, *limits: Any) -> Any:
            values = [None if limit is None else limit.cpu().numpy() for limit in limits]
            given = dict(zip(node.inputs[1:], values, strict=False))
            for axis, limit in (slice_limits(node, given.get, x.dim()) or {}).items():
                start, end, step = limit.indices(x.shape[axis])
                length = len(range(start, end, step))
                unit = x.narrow(axis, start, length) if step == 1 and length else None
                x = select(x, axis, range(start, end, step)) if unit is None else unit
            return x

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a run of channels, and every second row."""
        yield example(
            """g (float[N,3,8,8] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            a = Slice (h, starts, ends, axes, steps)
            y = Conv (a, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 5, 1, 1)},
            {
                "starts": np.array([2, 0]),
                "ends": np.array([7, 6]),
                "axes": np.array([1, 2]),
                "steps": np.array([1, 2]),
            },
        )


def slice_limits(node: Node, constant: object, rank: int) -> dict[int, slice] | None:
    """The limits for each axis; None where they are computed.

    Args:
        node: the Slice node.
        constant: function from a tensor's name to its constant value or None.
        rank: number of axes of the data.
    """
    assert callable(constant)
    if node.opset < 10:
        starts, ends = node.ints("starts") or (), node.ints("ends") or ()
        axes = node.ints("axes") or tuple(range(len(starts)))
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        values = [constant(node.input(i)) if node.input(i) else None for i in range(1, 5)]
        if values[0] is None or values[1] is None or any(node.input(i) and values[i - 1] is None for i in (3, 4)):
            return None
        starts, ends = tuple(map(int, values[0].ravel())), tuple(map(int, values[1].ravel()))
        axes = tuple(range(len(starts))) if values[2] is None else tuple(map(int, values[2].ravel()))
        steps = (1,) * len(starts) if values[3] is None else tuple(map(int, values[3].ravel()))
    limits = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # A negative step that runs past the front means "to the beginning", which Python writes as None.
        limits[normal_axis(axis, rank)] = slice(start, None if step < 0 and end < -(2**31) + 1 else end, step)
    return limits


class Gather(OpHandler):
    """Gather with constant indices."""

    op_types = ("Gather",)
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Select the channel ids of the gathered axis; other axes pass their channels on."""
        source, indices, output = node.input(0), node.input(1), node.output()
        before, after = labels.shape(source), labels.shape(output)
        axis = normal_axis(node.int("axis", 0), len(before))
        arrays = labels.get(source)
        if labels.is_constant(source) and axis == 0 and len(before) == 2 and not labels.is_constant(indices):
            # An embedding: a product with one-hot rows, whose columns are channels.
            arrays[1] = labels.fresh(before[1], node, output)
            labels.set(source, 1, arrays[1])
        behind = len(after) - len(before)
        for other in range(len(before)):
            if other != axis:
                labels.follow(node, source, other, output, other if other < axis else other + behind)
        along = arrays[axis]
        chosen = labels.constant(indices)
        if along is not None and chosen is not None and chosen.ndim == 1:
            labels.set(output, axis, along[chosen])
        elif along is not None:
            picked = along if chosen is None else along[chosen.ravel()]
            labels.freeze_ids(picked, source, "Gather picks single channels", node)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """An embedding: the columns of its table are units."""
        table = node.input(0)
        embeds = labels.is_constant(table) and labels.is_labelled(table) and not labels.is_constant(node.input(1))
        made = tuple(axis for axis, ids in enumerate(labels.get(table)) if ids is not None)
        return (Product(node.name, table, "", (), made),) if embeds else ()

    def reads(self, node: Node, axis: int, labels: Labels) -> np.ndarray | None:
        """The positions that constant indices name are read."""
        size, rank = labels.shape(node.input(0))[axis], labels.rank(node.input(0))
        chosen = labels.constant(node.input(1))
        if chosen is None or axis != normal_axis(node.int("axis", 0), rank):
            return None
        mask = np.zeros(size, bool)
        mask[chosen] = True
        return mask

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: indices count the positions that stay."""
        shape = edit.shape(node.input(0)) or ()
        axis = normal_axis(node.int("axis", 0), len(shape))
        kept = edit.kept(node.input(0), axis)
        chosen = edit.constant(node.input(1))
        if kept is None or chosen is None or kept.all():
            return
        chosen = np.where(chosen < 0, chosen + len(kept), chosen)
        position = np.cumsum(kept) - 1
        edit.set_input(1, position[chosen[kept[chosen]] if chosen.ndim == 1 else chosen].astype(np.int64))

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: at the positions that were picked, added up where one was picked twice."""
        source, shape, indices = node.input(0), back.shape(node.input(0)), back.value(node.input(1))
        axis = normal_axis(node.int("axis", 0), len(shape))
        if indices is None or indices.ndim > 1 or axis == 0:
            return False
        if back.needs(source):
            gradient = back.gradient(node.output())
            if indices.ndim == 0:
                single = np.array([0, *shape[1:axis], 1, *shape[axis + 1 :]])
                gradient = back.node("Reshape", [gradient, back.constant(single)])
            back.add(source, selected_back(back, gradient, len(shape), axis, indices.reshape(-1), shape[axis]))
        return True

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """Picked by numpy."""
        return np.asarray(np.take(inputs[0], inputs[1], axis=node.int("axis", 0)))

    def lookups(self, node: Node) -> tuple[tuple[int, int], ...]:
        """Rows of the first input, where the node picks along its first axis."""
        return ((0, 1),) if node.int("axis", 0) == 0 else ()

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """In torch: indices of any rank; negative ones count from the end."""
        import torch

        def run(x: Any, indices: Any) -> Any:
            axis = normal_axis(node.int("axis", 0), x.dim())
            flat = indices.reshape(-1).to(x.device)
            picked = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
            return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a fixed permutation with a repetition; an embedding."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            a = Gather <axis = 1> (h, order)
            y = Conv (a, w2) }""",
            {"w1": (6, 3, 3, 3), "w2": (4, 7, 1, 1)},
            {"order": np.array([5, 0, 1, 4, -3, 2, 0])},
        )
        yield example(
            """g (int64[N,5] t) => (float[N,5,3] y) {
            e = Gather (table, t)
            y = MatMul (e, w1) }""",
            {"table": (9, 8), "w1": (8, 3)},
        )
