"""Reductions: a sum or mean over channels is like a layer; after other reductions over channels, the channels stay."""

from collections.abc import Iterator
from math import inf, prod
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import expanded_like
from onnxprune.ops.base import Backward, Known, OpHandler, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.linear import Product
from onnxprune.ops.torch_tools import given_axes
from onnxprune.ops.traits import LinearMap, Operands

# To a sum, a channel that is not there is a zero.
_SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})


class Reduce(OpHandler):
    """ReduceMean, ReduceSum, ReduceMax and similar operators, ArgMax and ArgMin."""

    op_types = (
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
        *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin"),
    )
    folds_up_to = inf
    picks = ("ArgMax",)

    def couple(self, node: Node, labels: Labels) -> None:
        """A sum over channels sums over units; other reductions over channels keep them."""
        source, output = node.input(0), node.output()
        arrays, named = labels.get(source), _reduced(node, labels)
        if named is None:
            labels.freeze_node(node, "axes are computed")
            return
        keep = node.int("keepdims", 1)
        for axis in named:
            if node.op_type in _SUMS:
                labels.contract(node, source, axis, arrays[axis])
            else:
                labels.freeze_ids(arrays[axis], source, f"{node.op_type} mixes these channels", node)
        result = [None if axis in named else ids for axis, ids in enumerate(arrays) if keep or axis not in named]
        labels.set_all(output, result)

    def products(self, node: Node, labels: Labels) -> tuple[Product, ...]:
        """Sums over channels, as products without a weight."""
        axes = _reduced(node, labels) if node.op_type in _SUMS else None
        contracted = tuple((-1, axis) for axis in axes or () if labels.axis(node.input(0), axis) is not None)
        return (Product(node.name, "", node.input(0), contracted, ()),) if contracted else ()

    def jumps(self, node: Node) -> bool:
        """ArgMax and ArgMin are not continuous: the position of an extreme can jump."""
        return node.op_type.startswith("Arg")

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: means and extremes of a tensor that is the same everywhere along the reduced axes."""
        value = known.value(node.input(0))
        result = known.evaluate(node) if node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin") else None
        return result if value is not None and result is not None and result.size == value.size else None

    def matrices(self, node: Node, operands: Operands) -> LinearMap | None:
        """Sums and means as a matrix."""
        from onnxprune.ops.matrix import forms

        if node.op_type not in ("ReduceMean", "ReduceSum"):
            return None
        return forms.reduction(node, operands, mean=node.op_type == "ReduceMean")

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same reduction over the axes, all where none are given."""
        return _arg_reduction(node) if node.op_type.startswith("Arg") else _reduction(node)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: sums and means pass it to every element that was added up."""
        source, y = node.input(0), node.output()
        if node.op_type not in ("ReduceMean", "ReduceSum"):
            return False
        if back.needs(source):
            gradient = back.gradient(y)
            axes, shape = node.ints("axes"), back.shape(source)
            if axes is None and node.input(1):
                value = back.value(node.input(1))
                if value is None:
                    return False
                axes = tuple(int(v) for v in value.ravel())
            if not axes:
                if node.int("noop_with_empty_axes", 0):
                    return False
                axes = tuple(range(len(shape)))
            named = {normal_axis(axis, len(shape)) for axis in axes}
            if not node.int("keepdims", 1):
                kept = [1 if axis in named else 0 if axis == 0 else size for axis, size in enumerate(shape)]
                gradient = back.node("Reshape", [gradient, back.constant(np.asarray(kept, np.int64))])
            if node.op_type == "ReduceMean":
                gradient = back.node("Div", [gradient, back.constant(float(prod(shape[axis] for axis in named)))])
            back.add(source, expanded_like(back, gradient, source))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: spatial mean to a classifier; a norm and a maximum over channels."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv (x, w1)
            m = ReduceMean <axes = [2, 3], keepdims = 0> (h)
            y = Gemm (m, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (8, 4)},
        )
        for op_type in ("ReduceL2", "ReduceMax"):
            yield example(
                f"""g (float[N,3,6,6] x) => (float[N,1,4,4] y) {{
                h = Conv (x, w1)
                i = Conv (h, w2)
                y = {op_type} <axes = [1]> (i) }}""",
                {"w1": (8, 3, 3, 3), "w2": (5, 8, 1, 1)},
            )


def _reduced(node: Node, labels: Labels) -> set[int] | None:
    """The axes that are reduced; None where they are computed."""
    rank = labels.rank(node.input(0))
    axes = node.ints("axes")
    if node.op_type.startswith("Arg"):
        axes = (node.int("axis", 0),)
    elif axes is None and node.input(1):
        value = labels.constant(node.input(1))
        if value is None:
            return None
        axes = tuple(int(v) for v in value.ravel())
    if not axes:
        axes = () if node.int("noop_with_empty_axes", 0) else tuple(range(rank))
    return {normal_axis(axis, rank) for axis in axes}


def _reduction(node: Node) -> TorchRule:
    import torch

    keep = bool(node.int("keepdims", 1))

    def product(x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
        for axis in sorted(axes, reverse=True):
            x = x.prod(axis, keepdim=keepdim)
        return x

    functions: dict[str, TorchRule] = {
        "ReduceMean": torch.mean,
        "ReduceSum": torch.sum,
        "ReduceMax": torch.amax,
        "ReduceMin": torch.amin,
        "ReduceProd": product,
        "ReduceL1": lambda x, axes, keepdim: x.abs().sum(axes, keepdim),
        "ReduceL2": lambda x, axes, keepdim: x.square().sum(axes, keepdim).sqrt(),
        "ReduceLogSum": lambda x, axes, keepdim: x.sum(axes, keepdim).log(),
        "ReduceLogSumExp": torch.logsumexp,
        "ReduceSumSquare": lambda x, axes, keepdim: x.square().sum(axes, keepdim),
    }
    function = functions[node.op_type]

    def run(x: Any, axes: Any = None) -> Any:
        chosen = given_axes(node, axes)
        if not chosen and node.int("noop_with_empty_axes", 0):
            return x
        return function(x, tuple(normal_axis(axis, x.dim()) for axis in chosen or range(x.dim())), keepdim=keep)

    return run


def _arg_reduction(node: Node) -> TorchRule:
    axis, keep, last = node.int("axis", 0), bool(node.int("keepdims", 1)), node.int("select_last_index", 0)

    def run(x: Any) -> Any:
        x = x if node.op_type == "ArgMax" else -x
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keep) if last else x.argmax(axis, keep)

    return run
