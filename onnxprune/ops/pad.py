"""Pad: positions are added around the data (or cut)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.labels import Labels
from onnxprune.graph.view import Node
from onnxprune.ops.base import OpHandler, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.torch_tools import integers, pad, select


class Pad(OpHandler):
    """Pad: inserted channels are units of their own, which later additions tie to real ones."""

    op_types = ("Pad",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Padded positions of a labelled axis get fresh ids."""
        source, output = node.input(0), node.output()
        arrays = labels.get(source)
        pads = self._pads(node, labels.constant)
        if pads is None or labels.rank(output) != len(arrays) or node.input(3):
            labels.freeze_node(node, "amounts of Pad are computed")
            return
        rank = len(arrays)
        for axis, ids in enumerate(arrays):
            begin, end = pads[axis], pads[axis + rank]
            if ids is None:
                continue
            if (begin or end) and (str(node.attributes.get("mode", "constant")) != "constant" or min(begin, end) < 0):
                labels.freeze_ids(ids, source, "Pad copies or cuts channels", node)
            elif begin or end:
                new = labels.fresh(begin + end, node, output)
                labels.set(output, axis, np.concatenate([new[:begin], ids, new[begin:]]))
            else:
                labels.set(output, axis, ids)

    @staticmethod
    def _pads(node: Node, constant: object) -> tuple[int, ...] | None:
        assert callable(constant)
        if node.opset < 11:
            return node.ints("pads")
        value = constant(node.input(1))
        return None if value is None else tuple(int(v) for v in value)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """Amounts on labelled axes count the inserted positions that stay."""
        pads = self._pads(node, edit.constant)
        if pads is None:
            return
        fresh, rank = list(pads), len(pads) // 2
        for axis in range(rank):
            kept = edit.kept(node.output(), axis)
            if kept is not None:
                fresh[axis] = int(kept[: pads[axis]].sum())
                fresh[axis + rank] = int(kept[len(kept) - pads[axis + rank] :].sum())
        if tuple(fresh) == pads:
            return
        if node.opset < 11:
            edit.set_attribute("pads", fresh)
        else:
            edit.set_input(1, np.array(fresh, np.int64))

    def torch(self, node: Node) -> TorchRule:
        """A constant, or positions picked as numpy's `pad` picks them."""
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

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Zero channels around a narrow branch, added to a wide one."""
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


def _spread(amounts: list[int], axes: list[int], rank: int) -> list[int]:
    """Pads of some axes as pads of all."""
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis], full[axis + rank] = amounts[position], amounts[position + len(axes)]
    return full
