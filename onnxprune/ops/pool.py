"""Pooling, resizing, and other operators that treat each channel separately."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.backward_tools import expanded_like
from onnxprune.ops.base import Backward, Known, OpHandler, Rewriting, TorchRule, normal_axis
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.resampling import resampling
from onnxprune.ops.torch_tools import pad, select
from onnxprune.ops.traits import ChannelUse, Flow, LinearMap, Operands, Range, WindowMaximum
from onnxprune.ops.window import Pooling, Window, covered, window_pads


class Pool(OpHandler):
    """Pooling over spatial axes."""

    op_types = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")

    def couple(self, node: Node, labels: Labels) -> None:
        """Batch and channel axis pass their channels on; channels on spatial axes stay."""
        source = node.input(0)
        arrays = labels.get(source)
        for ids in arrays[2:]:
            labels.freeze_ids(ids, source, f"{node.op_type} mixes these positions", node)
        for axis, ids in enumerate(arrays[:2]):
            labels.set(node.output(), axis, ids)
        if node.output(1):
            labels.freeze_node(node, "indices of MaxPool count channels")

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:
        """The channel axis of images; only for these do kernels process several channels at once."""
        return ((ChannelUse.POOLED, labels.axis(node.input(0), 1)),) if labels.rank(node.input(0)) == 4 else ()

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """Each output channel depends only on the same input channel."""
        return Flow.CHANNELWISE

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:
        """Averages and maxima stay within the bounds of the data (and of padded zeros)."""
        source = operands[0]
        if source is None or node.op_type in ("LpPool", "GlobalLpPool"):
            return None
        padded = any(node.ints("pads") or ()) or "auto_pad" in node.attributes
        return source.with_zero() if node.op_type == "AveragePool" and padded else source

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """Of a map that is the same everywhere, the map itself, unless padded zeros or powers come in."""
        value = known.value(node.input(0))
        kernel = node.ints("kernel_shape") or ()
        padded = node.op_type == "AveragePool" and any(window_pads(node, known.shape(node.input(0))[2:], kernel))
        if value is None or padded or "Lp" in node.op_type or node.output(1):
            return None
        return value if set(value.shape[2:]) <= {1} else None

    def matrices(self, node: Node, operands: Operands) -> LinearMap | WindowMaximum | None:
        """Means as a matrix, maxima over windows."""
        from onnxprune.ops.matrix import forms

        made: dict[str, Callable[[Node, Operands], LinearMap | WindowMaximum]] = {
            "AveragePool": forms.window_average,
            "GlobalAveragePool": forms.global_average,
            "MaxPool": forms.window_maximum,
            "GlobalMaxPool": forms.global_maximum,
        }
        return made[node.op_type](node, operands) if node.op_type in made else None

    def pooling(self, node: Node, sizes: Sequence[int]) -> Pooling | None:
        """Windows of MaxPool, and of AveragePool where all of them lie inside."""
        kernel = node.ints("kernel_shape")
        if node.op_type not in ("MaxPool", "AveragePool") or kernel is None or node.output(1):
            return None
        strides, dilations = (node.ints(name) or (1,) * len(kernel) for name in ("strides", "dilations"))
        pads, ceil = window_pads(node, sizes, kernel), bool(node.int("ceil_mode", 0))
        if node.op_type == "AveragePool" and any(covered(sizes, kernel, strides, pads, dilations, ceil=ceil)):
            return None
        return Pooling(Window(kernel, strides, pads, dilations), mean=node.op_type == "AveragePool")

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: windows over the padded input; global forms reduce all spatial axes."""
        if node.output(1):
            return None
        return _global_pooling(node) if node.op_type.startswith("Global") else _pooling(node)

    def backward(self, node: Node, back: Backward) -> bool:
        """Means spread what arrives, maxima send it where they came from (evenly where several places have them)."""
        source, y = node.input(0), node.output()
        if node.op_type not in ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool") or node.output(1):
            return False
        if not back.needs(source):
            return True
        gradient, sizes = back.gradient(y), back.shape(source)[2:]
        if node.op_type == "GlobalAveragePool":
            spread = back.node("Div", [gradient, back.constant(float(prod(sizes)))])
            back.add(source, expanded_like(back, spread, source))
        elif node.op_type == "GlobalMaxPool":
            mask = back.node("Where", [back.node("Equal", [source, y]), *map(back.constant, (1.0, 0.0))])
            axes = range(2, len(sizes) + 2)
            shared = back.node("Div", [gradient, back.sum(mask, axes, keep=True)])
            back.add(source, back.node("Mul", [mask, shared]))
        else:
            part = _windows_back(node, back, gradient)
            if part is None:
                return False
            back.add(source, part)
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: local and global pooling."""
        yield example(
            """g (float[N,3,9,9] x) => (float[N,4,1,1] y) {
            h = Conv (x, w1)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)
            a = AveragePool <kernel_shape = [2, 2]> (m)
            p = GlobalAveragePool (a)
            y = Conv (p, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)},
        )


class Resize(OpHandler):
    """Resize and Upsample of axes other than the channels."""

    op_types = ("Resize", "Upsample")

    def couple(self, node: Node, labels: Labels) -> None:
        """Axes that keep their size pass their channels on."""
        source, output = node.input(0), node.output()
        before, after = labels.shape(source), labels.shape(output)
        cropped = str(node.attributes.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize"
        if (node.input(3) and labels.sizes(node.input(3)) is None) or cropped:
            labels.freeze_node(node, "sizes are computed from data, or the input is cropped")
            return
        for axis, ids in enumerate(labels.get(source)):
            if before[axis] == after[axis]:
                labels.set(output, axis, ids)
            else:
                labels.freeze_ids(ids, source, f"{node.op_type} changes the number of these channels", node)

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: of a map that is the same everywhere, the map itself."""
        value = known.value(node.input(0))
        resized = [a != b for a, b in zip(known.shape(node.input(0)), known.shape(node.output()), strict=True)]
        if value is None or any(size > 1 and r for size, r in zip(value.shape, resized, strict=True)):
            return None
        cropped = str(node.attributes.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize"
        return None if cropped else value

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: sizes of labelled axes; scales need no change."""
        if node.input(3):
            rank = len(edit.shape(node.input(0)) or ())
            axes = [normal_axis(axis, rank) for axis in node.ints("axes") or range(rank)]
            widths = {index: edit.width(node.output(), axis) for index, axis in enumerate(axes)}
            edit.set_elements(3, {index: width for index, width in widths.items() if width is not None})

    def moves(self, node: Node) -> tuple[int, ...]:  # noqa: ARG002
        """Moves the values of the first input (interpolated values are of the same kind)."""
        return (0,)

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: each axis by its weights, computed once per size."""
        import torch

        method = resampling(node)
        if method is None:
            return None

        def run(x: Any, *given: Any) -> Any:
            for axis, matrix in method(x.shape, [None if g is None else g.cpu().numpy() for g in given]).items():
                if (matrix.max(1) == 1).all():  # nearest: one source a position
                    x = select(x, axis, matrix.argmax(1))
                else:
                    weights = torch.from_numpy(matrix).to(x)
                    x = torch.movedim(torch.movedim(x, axis, -1) @ weights.t(), -1, axis)
            return x

        return run

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: by scales and by sizes."""
        for arguments, rest in (("scales", {"scales": np.array([1, 1, 2, 2], np.float32)}), (", sizes", {})):
            yield example(
                f"""g (float[N,3,6,6] x) => (float[N,4,A,B] y) {{
                h = Conv (x, w1)
                r = Resize <mode = "nearest"> (h, , {arguments})
                y = Conv (r, w2) }}""",
                {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)},
                rest or {"sizes": np.array([1, 8, 8, 8])},
            )


def _global_pooling(node: Node) -> TorchRule:
    p = node.int("p", 2)

    def run(x: Any) -> Any:
        axes = tuple(range(2, x.dim()))
        if node.op_type == "GlobalMaxPool":
            return x.amax(axes, keepdim=True)
        if node.op_type == "GlobalAveragePool":
            return x.mean(axes, keepdim=True)
        return x.abs().pow(p).sum(axes, keepdim=True).pow(1 / p)

    return run


def _pooling(node: Node) -> TorchRule | None:
    from torch.nn import functional

    kernel = node.ints("kernel_shape") or ()
    n, p = len(kernel), node.int("p", 2)
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    maximum = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[n - 1]
    average = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[n - 1]
    if node.op_type != "MaxPool" and set(dilations) != {1}:
        return None

    def run(x: Any) -> Any:
        pads = window_pads(node, x.shape[2:], kernel)
        # Windows of ceil_mode may reach beyond the pads; that part never counts.
        whole = covered(x.shape[2:], kernel, strides, pads, dilations, ceil=bool(node.int("ceil_mode", 0)))
        if node.op_type == "MaxPool":
            return maximum(pad(x, whole, float("-inf")), kernel, strides, 0, dilations)
        if node.op_type == "LpPool":
            return (average(pad(x.abs().pow(p), whole), kernel, strides) * prod(kernel)).pow(1 / p)
        if not any(whole):
            return average(x, kernel, strides)
        ones = x.new_ones(1, 1, *x.shape[2:])
        if node.int("count_include_pad", 0):
            ones, whole_ones = pad(ones, pads, 1.0), [w - p for w, p in zip(whole, pads, strict=True)]
        else:
            whole_ones = list(whole)
        return average(pad(x, whole), kernel, strides) / average(pad(ones, whole_ones), kernel, strides)

    return run


def _windows_back(node: Node, back: Backward, gradient: str) -> str | None:
    """The gradient for each position of a pooling window, by convolutions that select one position each."""
    source, y = node.input(0), node.output()
    kernel = node.ints("kernel_shape") or ()
    n, (channels, *sizes) = len(kernel), back.shape(source)[1:]
    out = back.shape(y)[2:]
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    pads = window_pads(node, sizes, kernel)
    whole = covered(sizes, kernel, strides, pads, dilations, ceil=bool(node.int("ceil_mode", 0)))
    if min(whole) < 0:
        return None
    rest = [
        sizes[a] - ((out[a] - 1) * strides[a] - whole[a] - whole[a + n] + (kernel[a] - 1) * dilations[a] + 1)
        for a in range(n)
    ]
    shape: dict[str, Any] = {
        "kernel_shape": list(kernel),
        "strides": list(strides),
        "dilations": list(dilations),
        "pads": list(whole),
        "group": channels,
    }

    def spread(tensor: str, weight: np.ndarray) -> str:
        kernel_weight = back.constant(np.broadcast_to(weight, (channels, 1, *kernel)).copy())
        return back.node("ConvTranspose", [tensor, kernel_weight], output_padding=rest, **shape)

    if node.op_type == "AveragePool":
        if node.int("count_include_pad", 0):
            counts = np.full(out, float(prod(kernel)))
            if whole != pads:  # what lies beyond the pads does not count
                return None
        else:
            counts = np.ones(out)
            for axis in range(n):
                starts = np.arange(out[axis]) * strides[axis] - pads[axis]
                places = starts[:, None] + np.arange(kernel[axis]) * dilations[axis]
                inside = ((places >= 0) & (places < sizes[axis])).sum(1)
                counts = counts * inside.reshape([-1 if a == axis else 1 for a in range(n)])
        return spread(back.node("Div", [gradient, back.constant(counts[None, None])]), np.ones(kernel))
    picks = []
    for place in np.ndindex(*kernel):
        weight = np.zeros(kernel)
        weight[place] = 1.0
        kernel_weight = back.constant(np.broadcast_to(weight, (channels, 1, *kernel)).copy())
        value = back.node("Conv", [source, kernel_weight], **shape)
        mask = back.node("Where", [back.node("Equal", [value, y]), *map(back.constant, (1.0, 0.0))])
        picks.append((weight, mask))
    total = functools.reduce(lambda a, b: back.node("Add", [a, b]), [mask for _, mask in picks])
    shared = back.node("Div", [gradient, back.node("Max", [total, back.constant(1.0)])])
    parts = [spread(back.node("Mul", [mask, shared]), weight) for weight, mask in picks]
    return functools.reduce(lambda a, b: back.node("Add", [a, b]), parts)
