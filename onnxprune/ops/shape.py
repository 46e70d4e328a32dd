"""Operators that rearrange axes: Transpose, Flatten, Reshape, Squeeze, Unsqueeze."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf, prod
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import moved_back
from onnxprune.ops.base import Backward, Known, OpHandler, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.torch_tools import as_matrix, given_axes, integers
from onnxprune.ops.traits import Carried

_MOST_POSITIONS = 2**26  # more than any network flattens, and as much as fits into half a gigabyte of labels


class Transpose(OpHandler):
    """Transpose: permutes the axes with their channels."""

    op_types = ("Transpose",)
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Each axis keeps its channels."""
        perm = node.ints("perm") or tuple(reversed(range(labels.rank(node.input(0)))))
        for axis, position in enumerate(perm):
            labels.follow(node, node.input(0), position, node.output(), axis)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: the inverse permutation."""
        source = node.input(0)
        if back.needs(source):
            perm = node.ints("perm") or tuple(reversed(range(len(back.shape(source)))))
            inverse = sorted(range(len(perm)), key=perm.__getitem__)
            back.add(source, back.node("Transpose", [back.gradient(node.output())], perm=inverse))
        return True

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: the small array that stands for the input, its axes moved."""
        return known.evaluate(node)

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same permutation."""
        perm = node.ints("perm")
        return lambda x: x.permute(perm or tuple(reversed(range(x.dim()))))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: a part of the network with channels last."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,A,B,4] y) {
            h = Conv (x, w1)
            t = Transpose <perm = [0, 2, 3, 1]> (h)
            r = Relu (t)
            y = MatMul (r, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (8, 4)},
        )


class Reshape(OpHandler):
    """Reshape and Flatten: follows channels through merged and split axes."""

    op_types = ("Reshape", "Flatten")
    is_view = True
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Match groups of axes with equal products, and carry the channels through each group."""
        source, output = node.input(0), node.output()
        before, after = labels.shape(source), labels.shape(output)
        if node.op_type == "Reshape":
            target = labels.sizes(node.input(1))
            if target is None and labels.is_labelled(source):
                labels.freeze_node(node, "the target shape is computed from data while the model runs")
                return
            if target is not None and target.value.ndim != 1:
                raise ValueError("the target shape is not a vector")
        arrays = labels.get(source)
        for old, new in blocks(before, after):
            self._couple_block(node, labels, arrays, before, after, old, new)

    def _couple_block(
        self,
        node: Node,
        labels: Labels,
        arrays: list[Ids | None],
        before: Sequence[int],
        after: Sequence[int],
        old: range,
        new: range,
    ) -> None:
        source = node.input(0)
        labelled = [axis for axis in old if arrays[axis] is not None and before[axis] > 1]
        single = [axis for axis in old if arrays[axis] is not None and before[axis] == 1]
        if len(old) == len(new) == 1:
            labels.follow(node, source, old.start, node.output(), new.start)
            return
        for axis in single:
            labels.freeze_ids(arrays[axis], source, "the only channel of an axis that is reshaped", node)
        if not labelled:
            return
        pick = labels.choice(node, -1 - old.start, len(labelled))  # of merged axes of channels, one is followed
        axis = labelled[pick]
        for other in labelled:
            if other != axis:
                labels.freeze_ids(arrays[other], source, "two axes of channels are merged", node)
        ids = arrays[axis]
        assert ids is not None
        if len(labelled) > 1:
            labels.chosen(node, -1 - old.start, len(labelled), ids)
        sizes = [before[a] for a in old]
        if prod(sizes) > _MOST_POSITIONS:
            labels.freeze_ids(ids, source, f"axes of {prod(sizes):,} positions are reshaped", node)
            return
        spread = [1] * len(sizes)
        spread[axis - old.start] = len(ids)
        flat = np.broadcast_to(ids.reshape(spread), sizes).ravel()
        self._place(node, labels, flat, [after[a] for a in new], new)

    def _place(self, node: Node, labels: Labels, flat: Ids, sizes: list[int], new: range) -> None:
        """Assign flat channel ids to the new axes, tying channels that share a position."""
        grid = flat.reshape(sizes)
        wide = [position for position, size in enumerate(sizes) if size > 1]
        exact = [p for p in wide if _constant_off(grid, p)]
        if exact:
            wide = exact[:1]
        elif len(wide) > 2 and sizes[wide[0]] == 3:
            wide = [*wide[1:], wide[0]]  # packed queries, keys and values
        elif len(wide) == 2 and self._is_shuffle(node, labels):
            wide = wide[::-1]  # offsets within a group of a channel shuffle
        # By default heads, or maps of a spatial grid
        position = wide[labels.choice(node, new.start, len(wide))]
        rows = np.moveaxis(grid, position, 0).reshape(sizes[position], -1)
        for column in range(1, rows.shape[1]):
            labels.tie(rows[:, 0], rows[:, column])
        followed = np.ascontiguousarray(rows[:, 0])
        if len(wide) > 1:
            labels.chosen(node, new.start, len(wide), followed)
        labels.set(node.output(), new.start + position, followed)

    def _is_shuffle(self, node: Node, labels: Labels) -> bool:
        before, after = labels.shape(node.input(0)), labels.shape(node.output())
        return (len(before), len(after)) in ((4, 5), (3, 4)) and before[1:2] != after[1:2]

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal, the widths in the target shape are adjusted."""
        if node.op_type == "Flatten":
            return
        target = edit.sizes(node.input(1))
        if target is None:
            return
        widths = {
            axis: width
            for axis, entry in enumerate(target.value)
            if entry > 0 and (width := edit.width(node.output(), axis)) is not None
        }
        if all(target.value[axis] == width for axis, width in widths.items()):
            return
        if target.free.sum() == 1 and (target.value > 0).all():
            # One size varies: the target becomes a constant that leaves it to be inferred.
            fresh = np.where(target.free, -1, target.value).astype(np.int64)
            fresh[list(widths)] = list(widths.values())
            edit.set_input(1, fresh)
        elif target.free[:1].all() and not target.free[1:].any() and (edit.shape(node.input(0)) or ())[:1] == (1,):
            fresh = np.array(target.value, np.int64)
            fresh[0], fresh[list(widths)] = 0, list(widths.values())
            edit.set_attribute("allowzero", None)
            edit.set_input(1, fresh)
        else:
            edit.set_elements(1, widths)

    def fits(self, node: Node, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> bool:  # noqa: ARG002
        """Whether the target has as many elements as the input."""
        before, after = shapes.get(node.input(0)), shapes.get(node.output())
        return before is None or after is None or prod(before) == prod(after)

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def carried(self, node: Node, axis: int, widths: Sequence[int], shape: Sequence[int]) -> Carried | None:
        """Flattening turns each channel into consecutive positions."""
        width = widths[0]
        if node.op_type != "Flatten" or not axis == node.int("axis", 1) == 1 or len(shape) != 2 or shape[1] % width:
            return None
        size = shape[1] // width
        return Carried(1, np.repeat(np.arange(width), size), np.tile(np.arange(size), width))

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: the small array that stands for them, if it varies along a kept axis only."""
        value = known.value(node.input(0))
        before, after = known.shape(node.input(0)), known.shape(node.output())
        if value is None or value.ndim != len(before):
            return None
        varying = [axis for axis, size in enumerate(value.shape) if size > 1]
        if not varying:
            return value.reshape((1,) * len(after))
        for old, new in blocks(before, after):
            places = [axis for axis in new if after[axis] > 1]
            if varying[0] in old and len(varying) == len(places) == 1 and after[places[0]] == before[varying[0]]:
                return value.reshape([-1 if axis == places[0] else 1 for axis in range(len(after))])
        return None

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same reshape (a 0 keeps the input's size)."""
        if node.op_type == "Flatten":
            return lambda x: as_matrix(x, node.int("axis", 1))
        copies = not node.int("allowzero", 0)

        def run(x: Any, target: Any) -> Any:
            sizes = integers(target)
            return x.reshape([x.shape[i] if size == 0 and copies else size for i, size in enumerate(sizes)])

        return run

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: in the input's shape."""
        return moved_back(back, node)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: flatten to a classifier, a constant target, heads and a shuffle."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv (x, w1)
            f = Flatten (h)
            y = Gemm (f, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (8 * 16, 4)},
        )
        yield example(
            """g (float[N,6] x) => (float[N,4,A,B] y) {
            h = Gemm (x, w1)
            r = Reshape (h, shape)
            y = Conv (r, w2) }""",
            {"w1": (6, 8 * 9), "w2": (4, 8, 3, 3)},
            {"shape": np.array([-1, 8, 3, 3])},
        )
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            s = Reshape (h, split)
            t = Transpose <perm = [0, 2, 1, 3, 4]> (s)
            m = Reshape (t, merge)
            d = Conv <group = 2> (m, w2)
            y = Conv (d, w3) }""",
            {"w1": (8, 3, 3, 3), "w2": (6, 4, 1, 1), "w3": (4, 6, 1, 1)},
            {"split": np.array([0, 2, 4, 4, 4]), "merge": np.array([0, 8, 4, 4])},
        )


class Squeeze(OpHandler):
    """Squeeze and Unsqueeze: remove or add axes of size 1."""

    op_types = ("Squeeze", "Unsqueeze")
    is_view = True
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Each axis keeps its channels; a channel whose axis is removed stays."""
        source, output = node.input(0), node.output()
        arrays, rank = labels.get(source), labels.rank(output)
        axes = node.ints("axes")
        if axes is None and node.input(1):
            value = labels.constant(node.input(1))
            axes = None if value is None else tuple(int(v) for v in value.ravel())
        longer = max(len(arrays), rank)
        if axes is None and node.op_type == "Squeeze" and not node.input(1):
            axes = tuple(a for a, size in enumerate(labels.shape(source)) if size == 1)
        if axes is None:
            labels.freeze_node(node, "axes are computed while the model runs")
            return
        named = {normal_axis(axis, longer) for axis in axes}
        others = [axis for axis in range(longer) if axis not in named]
        if node.op_type == "Squeeze":
            for axis in named:
                labels.freeze_ids(arrays[axis], source, "the only channel of a dropped axis", node)
        for position, axis in enumerate(others):
            if node.op_type == "Squeeze":
                labels.follow(node, source, axis, output, position)
            else:
                labels.follow(node, source, position, output, axis)

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input."""
        return (0,)

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: the small array that stands for the input, without the axes or with them."""
        named = node.op_type == "Unsqueeze" or node.ints("axes") is not None or bool(node.input(1))
        return known.evaluate(node) if named else None

    def fold(self, node: Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """Unsqueeze in numpy."""
        axes = inputs[1].ravel() if len(inputs) > 1 else node.ints("axes")
        if node.op_type != "Unsqueeze" or axes is None:
            return None
        return np.expand_dims(inputs[0], tuple(int(axis) for axis in axes))

    def torch(self, node: Node) -> TorchRule:
        """In torch: drop or add the axes."""

        def squeeze(x: Any, axes: Any = None) -> Any:
            chosen = given_axes(node, axes)
            return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

        def unsqueeze(x: Any, axes: Any = None) -> Any:
            chosen = given_axes(node, axes) or []
            for axis in sorted(normal_axis(axis, x.dim() + len(chosen)) for axis in chosen):
                x = x.unsqueeze(axis)
            return x

        return squeeze if node.op_type == "Squeeze" else unsqueeze

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: in the input's shape."""
        return moved_back(back, node)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: squeeze-excitation with dense layers."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,4,4] y) {
            h = Conv (x, w1)
            p = GlobalAveragePool (h)
            s = Squeeze (p, space)
            d = Gemm (s, w2)
            r = Relu (d)
            e = Gemm (r, w3)
            g = Sigmoid (e)
            u = Unsqueeze (g, space)
            m = Mul (h, u)
            y = Conv (m, w4) }""",
            {"w1": (8, 3, 3, 3), "w2": (8, 5), "w3": (5, 8), "w4": (4, 8, 1, 1)},
            {"space": np.array([2, 3])},
        )


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """Split two shapes of equal size into the smallest groups of axes with equal products.

    Axes of size 1 attach to the run that ends before them, or to the first.
    """
    pairs: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start_i, start_j = i, j
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        pairs.append((range(start_i, i), range(start_j, j)))
    return pairs


def _constant_off(grid: np.ndarray, axis: int) -> bool:
    """Whether channel ids vary along one axis only."""
    rows = np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())
