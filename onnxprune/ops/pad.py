"""Pad: adds positions around the data, or cuts them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.graph.shapes import Sizes
from onnxprune.ops.backward_tools import padded
from onnxprune.ops.base import Backward, OpHandler, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.torch_tools import integers, pad, select
from onnxprune.ops.traits import LinearMap, Operands


class Pad(OpHandler):
    """Pad. Positions that it adds to a channel axis are channels of their own, perhaps tied to others later."""

    op_types = ("Pad",)
    folds_up_to = 1024  # shape arithmetic: the amounts, not the data, say how large the result is

    def couple(self, node: Node, labels: Labels) -> None:
        """Give new ids to the positions that are added to a channel axis."""
        source, output = node.input(0), node.output()
        arrays = labels.get(source)
        amounts = _amounts(node, labels.sizes, labels.constant, len(arrays))
        if amounts is None:
            labels.freeze_node(node, "amounts of Pad are computed from data")
            return
        constant = str(node.attributes.get("mode", "constant")) == "constant"
        for axis, ids in enumerate(arrays):
            begin, end = amounts.get(axis, _NOTHING)[0]
            if ids is None:
                continue
            if max(begin, end) > 0 and not constant:
                labels.freeze_ids(ids, source, "Pad copies channels", node)
                continue
            ids_after = ids[max(0, -begin) : len(ids) - max(0, -end)]
            if max(begin, end) > 0:
                new = labels.fresh(max(0, begin) + max(0, end), node, output)
                ids_after = np.concatenate([new[: max(0, begin)], ids_after, new[max(0, begin) :]])
            labels.set(output, axis, ids_after)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: amounts on labelled axes count the inserted (or cut) positions that stay."""
        amounts = _amounts(node, edit.sizes, edit.constant, len(edit.shape(node.input(0)) or ()))
        fresh: dict[int, int] = {}
        for axis, (pads, indices) in (amounts or {}).items():
            before, after = edit.kept(node.input(0), axis), edit.kept(node.output(), axis)
            if before is None or after is None:
                continue
            begin, end = pads
            fresh[indices[0]] = int(after[:begin].sum()) if begin > 0 else -int(before[:-begin].sum())
            fresh[indices[1]] = (
                int(after[len(after) - end :].sum()) if end > 0 else -int(before[len(before) + end :].sum())
            )
        if not fresh:
            return
        if node.opset < 11:
            present = node.ints("pads") or ()
            edit.set_attribute("pads", [fresh.get(index, amount) for index, amount in enumerate(present)])
        else:
            edit.set_elements(1, fresh)

    def fits(self, node: Node, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> bool:
        """False where more positions would be reflected than there are."""
        if str(node.attributes.get("mode", "constant")) != "reflect":
            return True
        pads = node.ints("pads") or tuple(values.get(node.input(1), np.zeros(0, int)).tolist())
        shape = shapes.get(node.input(0), ())
        return len(pads) != 2 * len(shape) or not any(p >= n > 0 for p, n in zip(pads, shape * 2, strict=True))

    def matrices(self, node: Node, operands: Operands) -> LinearMap:
        """As a matrix: values move, and what is added is constant or copied."""
        from onnxprune.ops.matrix import forms

        return forms.movement(node, operands)

    def torch(self, node: Node) -> TorchRule:
        """In torch: a constant, or positions picked as numpy's `pad` picks them."""
        mode = str(node.attributes.get("mode", "constant"))

        def run(x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
            amounts = list(node.ints("pads") or ()) if pads is None else integers(pads)
            if axes is not None:
                amounts = _spread(amounts, [normal_axis(axis, x.dim()) for axis in integers(axes)], x.dim())
            if mode == "constant":
                return pad(x, amounts, float(node.attributes.get("value", 0.0) if value is None else value))
            for axis, (begin, end) in enumerate(zip(amounts[: x.dim()], amounts[x.dim() :], strict=True)):
                positions = np.arange(x.shape[axis])[max(0, -begin) : x.shape[axis] - max(0, -end)]
                x = select(x, axis, np.pad(positions, (max(0, begin), max(0, end)), mode))  # type: ignore[call-overload]
            return x

        return run

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: what was added is cut off again."""
        source, mode = node.input(0), str(node.attributes.get("mode", "constant"))
        pads = node.ints("pads")
        if pads is None and (value := back.value(node.input(1))) is not None:
            pads = tuple(int(p) for p in value.ravel())
        if mode != "constant" or pads is None or node.input(3):
            return False
        if back.needs(source):
            back.add(source, padded(back, back.gradient(node.output()), [-p for p in pads], node.opset))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: zero channels around a narrow branch, added to a wide one; channels cut and added."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            p = Pad (h, pads)
            i = Conv (x, w2)
            s = Add (p, i)
            y = Conv (s, w3) }""",
            {"w1": (4, 3, 3, 3), "w2": (8, 3, 3, 3), "w3": (4, 8, 1, 1)},
            {"pads": np.array([0, 2, 0, 0, 0, 2, 0, 0])},
        )
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            p = Pad (h, pads, , axes)
            y = Conv (p, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 7, 1, 1)},
            {"pads": np.array([0, -3, 1, 2]), "axes": np.array([2, 1])},
            opset=18,
        )


_NOTHING = ((0, 0), (0, 0))


def _amounts(
    node: Node,
    sizes: Callable[[str], Sizes | None],
    constant: Callable[[str], np.ndarray | None],
    rank: int,
) -> dict[int, tuple[tuple[int, int], tuple[int, int]]] | None:
    """Per axis `(begin, end)` and where the two stand in the list of pads; None where they depend on data."""
    if node.opset < 11:
        pads, axes = list(node.ints("pads") or ()), list(range(rank))
    else:
        known, given = sizes(node.input(1)), constant(node.input(3)) if node.input(3) else np.arange(rank)
        if known is None or given is None:
            return None
        pads, axes = [int(v) for v in known.value], [normal_axis(int(axis), rank) for axis in given]
    count = len(axes)
    return {axis: ((pads[i], pads[i + count]), (i, i + count)) for i, axis in enumerate(axes)}


def _spread(amounts: list[int], axes: list[int], rank: int) -> list[int]:
    """Pads of some axes as pads of all axes."""
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis], full[axis + rank] = amounts[position], amounts[position + len(axes)]
    return full
