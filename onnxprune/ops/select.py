"""Operators that join and select positions: Concat, Split, Slice, Gather."""

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import ChannelUse, OpHandler, Product, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.torch_tools import integers, select
from onnxprune.ops.traits import Carried


class Concat(OpHandler):
    """Concat joins labels along its axis and ties them along the others."""

    op_types = ("Concat",)
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
        found = [(name, labels.axis(name, axis)) for name in dict.fromkeys(node.inputs) if name not in unread]
        present = [ids for name, ids in found if ids is not None]
        if not present and all(labels.adapts(name, axis) for name, _ in found):
            for name, _ in found:
                labels.adapt(node.output(), axis, node, name, axis)
        for name, ids in found:
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
        """A part that nobody reads gives way to one that is as wide as the result."""
        shape = edit.shape(node.output()) or ()
        axis = normal_axis(node.int("axis", 0), len(shape))
        others = [other for other in range(len(shape)) if other != axis]

        def fits(name: str) -> bool:
            return all(edit.width(name, other) == edit.width(node.output(), other) for other in others)

        lengths = {name: (edit.shape(name) or shape)[axis] for name in node.inputs}
        for position, name in enumerate(node.inputs):
            if not fits(name):
                alike = (n for n in node.inputs if fits(n) and lengths[n] == lengths[name])
                edit.read_instead(position, next(alike, name))

    def moves(self, node: Node) -> tuple[int, ...]:
        """All parts."""
        return tuple(range(len(node.inputs)))

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:
        """Operands of a join along images' channels, which may stay in blocks of channels."""
        rank = labels.rank(node.output())
        if rank != 4 or normal_axis(node.int("axis", 0), rank) != 1:
            return ()
        return tuple((ChannelUse.JOINED, labels.axis(name, 1)) for name in node.inputs)

    def carried(self, node: Node, axis: int, widths: Sequence[int], shape: Sequence[int]) -> Carried | None:
        """One part's channels after another's, where they are joined."""
        joined = normal_axis(node.int("axis", 0), len(shape)) == axis
        return Carried(axis, np.arange(sum(widths))) if joined else None

    def torch(self, node: Node) -> TorchRule:
        """The same join."""
        import torch

        return lambda *parts: torch.cat(parts, node.int("axis", 0))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Branches of different width, and the input itself."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            i = Conv (x, w2)
            c = Concat <axis = 1> (h, x, i)
            y = Conv (c, w3) }""",
            {"w1": (8, 3, 1, 1), "w2": (5, 3, 1, 1), "w3": (4, 16, 3, 3)},
        )


class Split(OpHandler):
    """Split selects consecutive runs."""

    op_types = ("Split",)
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Each output takes its run of labels."""
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
        """Sizes are those that stay."""
        shape = edit.shape(node.input(0)) or ()
        axis = normal_axis(node.int("axis", 0), len(shape))
        widths = [edit.width(output, axis) for output in node.outputs]
        if any(width is None for width in widths):
            return
        if node.opset >= 13:
            edit.set_input(1, np.array(widths, np.int64))
            edit.set_attribute("num_outputs", None)
        else:
            edit.set_attribute("split", widths)

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """The data."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """Sizes from the attribute or the input, else equal ones (the last may be smaller)."""
        axis, count = node.int("axis", 0), len(node.outputs)

        def run(x: Any, sizes: Any = None) -> Any:
            widths = node.ints("split") if sizes is None else integers(sizes)
            return x.split(list(widths) if widths else -(-x.shape[axis] // count), axis)

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Two uneven parts that go different ways."""
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


class Slice(OpHandler):
    """Slice with constant limits."""

    op_types = ("Slice",)
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Labels are sliced like the data."""
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
        """The positions between constant limits."""
        limits = slice_limits(node, labels.constant, labels.rank(node.input(0)))
        if limits is None or axis not in limits:
            return None
        found = np.zeros(labels.shape(node.input(0))[axis], bool)
        found[limits[axis]] = True
        return found

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """Limits on labelled axes count the positions that stay before them."""
        shape = edit.shape(node.input(0)) or ()
        limits = slice_limits(node, edit.constant, len(shape))
        if limits is None:
            return
        starts, ends, changed = [], [], False
        for axis, limit in limits.items():
            start, end, step = limit.start, limit.stop, limit.step
            kept = edit.kept(node.input(0), axis)
            if kept is not None and step in (1, None):
                first, last, _ = limit.indices(shape[axis])
                start, end, changed = int(kept[:first].sum()), int(kept[: max(first, last)].sum()), True
            starts.append(start)
            ends.append(np.iinfo(np.int64).max if end is None and (step or 1) > 0 else end)
            if end is None and (step or 1) < 0:
                ends[-1] = np.iinfo(np.int64).min
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

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """The data."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """Slice axis by axis; torch has no negative steps, so those select by position."""

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
        """A run of channels, and every second row."""
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
    """Limits per axis, None where they are computed.

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
        """Labels of the gathered axis are selected; other axes pass."""
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
        """An embedding makes the columns of its table."""
        table = node.input(0)
        embeds = labels.is_constant(table) and labels.is_labelled(table) and not labels.is_constant(node.input(1))
        made = tuple(axis for axis, ids in enumerate(labels.get(table)) if ids is not None)
        return (Product(node.name, table, "", (), made),) if embeds else ()

    def reads(self, node: Node, axis: int, labels: Labels) -> np.ndarray | None:
        """The positions that constant indices name."""
        size, rank = labels.shape(node.input(0))[axis], labels.rank(node.input(0))
        chosen = labels.constant(node.input(1))
        if chosen is None or axis != normal_axis(node.int("axis", 0), rank):
            return None
        found = np.zeros(size, bool)
        found[chosen] = True
        return found

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """Indices count the positions that stay."""
        shape = edit.shape(node.input(0)) or ()
        axis = normal_axis(node.int("axis", 0), len(shape))
        kept = edit.kept(node.input(0), axis)
        chosen = edit.constant(node.input(1))
        if kept is None or chosen is None or kept.all():
            return
        chosen = np.where(chosen < 0, chosen + len(kept), chosen)
        position = np.cumsum(kept) - 1
        edit.set_input(1, position[chosen[kept[chosen]] if chosen.ndim == 1 else chosen].astype(np.int64))

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """The data."""
        return (0,)

    def torch(self, node: Node) -> TorchRule:
        """Indices of any rank; negative ones count from the end."""
        import torch

        def run(x: Any, indices: Any) -> Any:
            axis = normal_axis(node.int("axis", 0), x.dim())
            flat = indices.reshape(-1).to(x.device)
            picked = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
            return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """A fixed permutation with a repetition; an embedding."""
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
