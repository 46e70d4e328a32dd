"""Operators that depend on the order of positions along an axis: CumSum, TopK, Trilu, ReverseSequence."""

from collections.abc import Iterator
from math import inf
from typing import Any, ClassVar

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import OpHandler, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels


class Ordered(OpHandler):
    """Operators that sort or accumulate along some axes: the channels on these stay."""

    op_types: ClassVar[tuple[str, ...]] = ("CumSum", "Trilu", "ReverseSequence")
    folds_up_to = inf

    def couple(self, node: Node, labels: Labels) -> None:
        """Keep the channels on these axes; other axes pass their channels on."""
        source = node.input(0)
        axes = _axes(node, labels)
        for axis, ids in enumerate(labels.get(source)):
            if axes is None or axis in axes:
                labels.freeze_ids(ids, source, f"{node.op_type} depends on the order of these channels", node)
            else:
                for output in filter(labels.rank, node.outputs):
                    labels.set(output, axis, ids)
        if axes is None:
            labels.freeze_node(node, f"the axis of {node.op_type} is computed")

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same order."""
        rules = {"CumSum": _cumulative_sum, "Trilu": _triangle, "ReverseSequence": _reversed, "TopK": _top}
        return rules[node.op_type](node)

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: over rows, with channels beside."""
        yield example(
            """g (float[N,5,6] x) => (float[N,2,3] y) {
            h = MatMul (x, w1)
            c = CumSum (h, one)
            t, i = TopK <axis = 1> (c, two)
            y = MatMul (t, w2) }""",
            {"w1": (6, 8), "w2": (8, 3)},
            {"one": np.array(1), "two": np.array([2])},
        )


class Largest(Ordered):
    """TopK: the largest values along an axis, in their order."""

    op_types = ("TopK",)
    selects = "order"

    def jumps(self, node: Node) -> bool:  # noqa: ARG002
        """Which elements are the largest can change."""
        return True


def _axes(node: Node, labels: Labels) -> set[int] | None:
    rank = labels.rank(node.input(0))
    if node.op_type == "Trilu":
        return {rank - 2, rank - 1}
    if node.op_type == "ReverseSequence":
        return {node.int("batch_axis", 1), node.int("time_axis", 0)}
    if node.op_type == "TopK":
        return {normal_axis(node.int("axis", -1), rank)}
    value = labels.constant(node.input(1))
    return None if value is None else {normal_axis(int(value.ravel()[0]), rank)}


def _cumulative_sum(node: Node) -> TorchRule:
    exclusive, backwards = node.int("exclusive", 0), node.int("reverse", 0)

    def run(x: Any, axis: Any) -> Any:
        along = int(axis)
        x = x.flip(along) if backwards else x
        sums = x.cumsum(along) - (x if exclusive else 0)
        return sums.flip(along) if backwards else sums

    return run


def _top(node: Node) -> TorchRule:
    axis, largest, ordered = node.int("axis", -1), bool(node.int("largest", 1)), bool(node.int("sorted", 1))

    def run(x: Any, k: Any = None) -> Any:
        return tuple(x.topk(int(node.int("k", 1) if k is None else k), axis, largest, ordered))

    return run


def _triangle(node: Node) -> TorchRule:
    def run(x: Any, k: Any = None) -> Any:
        diagonal = 0 if k is None else int(k)
        return x.triu(diagonal) if node.int("upper", 1) else x.tril(diagonal)

    return run


def _reversed(node: Node) -> TorchRule:
    import torch

    batch_axis, time_axis = node.int("batch_axis", 1), node.int("time_axis", 0)

    def run(x: Any, lengths: Any) -> Any:
        moved = x.movedim((time_axis, batch_axis), (0, 1))
        steps, ends = torch.arange(len(moved), device=x.device)[:, None], lengths.to(x.device)[None]
        source = torch.where(steps < ends, ends - 1 - steps, steps)
        turned = moved[source, torch.arange(moved.shape[1], device=x.device)[None]]
        return turned.movedim((0, 1), (time_axis, batch_axis))

    return run
