"""Conv and ConvTranspose: 1D to 3D, grouped and depthwise."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Backward, Known, OpHandler, Rewriting, TorchRule
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.linear import Factors, Linear, axis_factors
from onnxprune.ops.torch_tools import along_channels, pad
from onnxprune.ops.traits import Change, ChannelUse, LinearMap, Operands
from onnxprune.ops.window import Window, transposed_pads, window_pads


class Conv(OpHandler):
    """Conv; weight `(C_out, C_in / group, *kernel)`."""

    op_types = ("Conv",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Sum over the input's channels and start new output channels; a depthwise convolution passes channels on."""
        _couple(node, labels, in_axis=1, out_axis=0)

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """As a layer: one sum over input channels per output position."""
        return _linear(node, labels, in_axis=1, out_axis=0)

    channel_axis = 1

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of all output positions; a computed weight counts as any other."""
        return (_factors(node, labels, out_axis=0),)

    def channel_uses(self, node: Node, labels: Labels) -> Iterable[tuple[ChannelUse, Ids | None]]:
        """The input channels; of a grouped convolution, the inputs and outputs of one group."""
        ids, group = labels.axis(node.input(0), 1), node.int("group", 1)
        out = labels.axis(node.output(), 1)
        if ids is None or group == 1:
            return ((ChannelUse.CONVOLVED, ids),)
        if group == len(ids):
            return ((ChannelUse.DEPTHWISE, ids),)
        return tuple(
            (ChannelUse.GROUPED, axis_ids[: len(axis_ids) // group]) for axis_ids in (ids, out) if axis_ids is not None
        )

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: a depthwise convolution has as many groups as channels left."""
        _rewrite(node, edit)

    def starts_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """With an activation and a residual behind it."""
        return True

    def at_zero(self, node: Node, known: Known) -> np.ndarray | None:
        """Without input channels: the bias."""
        return _bias(node, known)

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:
        """Merges an affine change into the filters and the bias."""
        return _absorb(node, edit, change, out_axis=0)

    def matrices(self, node: Node, operands: Operands) -> LinearMap:
        """As a matrix: each output position sums over its window."""
        from onnxprune.ops.matrix import forms

        return forms.convolution(node, operands)

    def torch(self, node: Node) -> TorchRule:
        """In torch: convolution; pads that differ between the ends are added first."""
        import torch
        from torch.nn import functional

        group = node.int("group", 1)

        def run(x: Any, weight: Any, bias: Any = None) -> Any:
            n = weight.dim() - 2
            convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[n - 1]
            pads = window_pads(node, x.shape[2:], weight.shape[2:])
            strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
            if pads[:n] != pads[n:]:
                x, pads = pad(x, pads), (0,) * n
            if n == 2 and not x.is_cuda:  # the layout that convolutions on the CPU are fastest in
                weight = weight.contiguous(memory_format=torch.channels_last)
            return convolve(x, weight, bias, strides, pads[:n], dilations, group)

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: weight and bias."""
        return node.inputs[1:]

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: the transposed convolution with the same weight, as a convolution where there is no stride."""
        source, weight = node.input(0), node.input(1)
        if back.needs(weight):
            return False
        if back.needs(source):
            kernel, n = back.shape(weight)[2:], len(back.shape(weight)) - 2
            sizes, out = back.shape(source)[2:], back.shape(node.output())[2:]
            strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
            pads = window_pads(node, sizes, kernel)
            if min(pads) < 0:
                return False
            value, group = back.value(weight), node.int("group", 1)
            around = [(kernel[a % n] - 1) * dilations[a % n] - pads[a] for a in range(2 * n)]
            if value is not None and set(strides) == {1} and min(around) >= 0:  # kernels of convolutions are faster
                convolution = back.node(
                    "Conv",
                    [back.gradient(node.output()), back.constant(_turned(value, group))],
                    kernel_shape=list(kernel),
                    dilations=list(dilations),
                    pads=around,
                    group=group,
                )
                back.add(source, convolution)
                return True
            rest = [
                sizes[a] - ((out[a] - 1) * strides[a] - pads[a] - pads[a + n] + (kernel[a] - 1) * dilations[a] + 1)
                for a in range(n)
            ]
            gradient = back.node(
                "ConvTranspose",
                [back.gradient(node.output()), weight],
                kernel_shape=list(kernel),
                strides=list(strides),
                dilations=list(dilations),
                pads=list(pads),
                output_padding=rest,
                group=group,
            )
            back.add(source, gradient)
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: plain, strided, dilated, 1D, grouped, depthwise and depthwise with a multiplier."""
        for middle, w2 in (
            ("Conv <pads = [1, 1, 1, 1]>", (6, 8, 3, 3)),
            ("Conv <strides = [2, 2], dilations = [2, 1]>", (6, 8, 3, 3)),
            ("Conv <group = 2>", (6, 4, 3, 3)),
            ("Conv <group = 8>", (8, 1, 3, 3)),
            ("Conv <group = 8>", (16, 1, 3, 3)),
        ):
            yield example(
                f"""g (float[N,3,9,9] x) => (float[N,4,A,B] y) {{
                h = Conv (x, w1, b1)
                r = Relu (h)
                m = {middle} (r, w2, b2)
                s = Relu (m)
                y = Conv (s, w3) }}""",
                {"w1": (8, 3, 3, 3), "b1": (8,), "w2": w2, "b2": w2[:1], "w3": (4, w2[0], 1, 1)},
            )
        yield example(
            """g (float[N,3,12] x) => (float[N,4,A] y) {
            h = Conv (x, w1)
            y = Conv (h, w2) }""",
            {"w1": (8, 3, 3), "w2": (4, 8, 3)},
        )


class ConvTranspose(OpHandler):
    """ConvTranspose; weight `(C_in, C_out / group, *kernel)`."""

    op_types = ("ConvTranspose",)

    def couple(self, node: Node, labels: Labels) -> None:
        """As for Conv, with the two channel axes of the weight exchanged."""
        _couple(node, labels, in_axis=0, out_axis=1)

    def linear(self, node: Node, labels: Labels) -> Linear | None:
        """As a layer: one sum over input channels per input position."""
        return _linear(node, labels, in_axis=0, out_axis=1)

    channel_axis = 1

    def multiply_adds(self, node: Node, labels: Labels) -> tuple[Factors, ...]:
        """Those of all input positions."""
        return (_factors(node, labels, out_axis=1),)

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: a depthwise convolution has as many groups as channels left."""
        _rewrite(node, edit)

    def starts_kernel(self, node: Node) -> bool:  # noqa: ARG002
        """With an activation and a residual behind it."""
        return True

    def at_zero(self, node: Node, known: Known) -> np.ndarray | None:
        """Without input channels: the bias."""
        return _bias(node, known)

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:
        """Merges an affine change into the filters and the bias."""
        return _absorb(node, edit, change, out_axis=1)

    def matrices(self, node: Node, operands: Operands) -> LinearMap:
        """As a matrix: that of the convolution with the same weight, transposed."""
        from onnxprune.ops.matrix import forms

        return forms.convolution(node, operands, transposed=True)

    def torch(self, node: Node) -> TorchRule:
        """In torch: transposed convolution without pads, then cut (or extended) to the size that ONNX gives."""
        from torch.nn import functional

        group = node.int("group", 1)

        def run(x: Any, weight: Any, bias: Any = None) -> Any:
            n = weight.dim() - 2
            convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[n - 1]
            strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
            extra = node.ints("output_padding") or (0,) * n
            y = convolve(x, weight, None, strides, 0, 0, group, dilations)
            y = pad(y, (*(0,) * n, *extra))
            y = pad(y, [-p for p in transposed_pads(node, x.shape[2:], weight.shape[2:])])
            return y if bias is None else y + along_channels(bias, y)

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: weight and bias."""
        return node.inputs[1:]

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: the convolution with the same weight."""
        source, weight = node.input(0), node.input(1)
        if (
            back.needs(weight)
            or node.ints("output_shape")
            or str(node.attributes.get("auto_pad", "NOTSET")) != "NOTSET"
        ):
            return False
        if back.needs(source):
            n = len(back.shape(weight)) - 2
            gradient = back.node(
                "Conv",
                [back.gradient(node.output()), weight],
                kernel_shape=list(back.shape(weight)[2:]),
                strides=list(node.ints("strides") or (1,) * n),
                dilations=list(node.ints("dilations") or (1,) * n),
                pads=list(node.ints("pads") or (0,) * (2 * n)),
                group=node.int("group", 1),
            )
            back.add(source, gradient)
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: plain, grouped and depthwise upsampling."""
        for group, w2 in ((1, (8, 6, 2, 2)), (2, (8, 3, 2, 2)), (8, (8, 1, 2, 2))):
            yield example(
                f"""g (float[N,3,6,6] x) => (float[N,4,A,B] y) {{
                h = Conv (x, w1)
                m = ConvTranspose <strides = [2, 2], group = {group}> (h, w2, b2)
                y = Conv (m, w3) }}""",
                {"w1": (8, 3, 3, 3), "w2": w2, "b2": (w2[1] * group,), "w3": (4, w2[1] * group, 1, 1)},
            )


def _turned(weight: np.ndarray, group: int) -> np.ndarray:
    """The weight `(C_out, C_in / group, ...)` with inputs and outputs exchanged, and turned round in space."""
    outputs, inputs, *kernel = weight.shape
    parts = np.swapaxes(weight.reshape(group, outputs // group, inputs, *kernel), 1, 2)
    return np.flip(parts.reshape(group * inputs, outputs // group, *kernel), tuple(range(2, 2 + len(kernel))))


def _couple(node: Node, labels: Labels, in_axis: int, out_axis: int) -> None:
    source, weight, bias = node.input(0), node.input(1), node.input(2)
    shape = labels.shape(weight)
    if not labels.is_constant(weight) or (bias and not labels.is_constant(bias)):
        labels.set(node.output(), 1, labels.fresh(labels.shape(node.output())[1], node, node.output()))
        labels.freeze_node(node, "the weight of the convolution is computed")
        return
    group = node.int("group", 1)
    if shape[0] % group:
        raise ValueError(f"{shape[0]} filters do not make {group} groups")
    if out_axis == 0:
        c_in, c_out = shape[1] * group, shape[0]
    else:
        c_in, c_out = shape[0], shape[1] * group
    ids = labels.axis(source, 1)
    if group == 1:
        labels.set(weight, in_axis, ids)
        labels.contract(node, weight, in_axis, ids)
        out = labels.fresh(c_out, node, node.output())
        labels.set(weight, out_axis, out)
    elif group == c_in:
        out = np.repeat(labels.fixed(c_in) if ids is None else ids, c_out // c_in)
        if ids is None:
            out = labels.fresh(c_out, node, node.output())
            labels.freeze_ids(out, node.output(), "depthwise over channels that are not prunable", node)
        else:
            # The weight's first axis runs over output channels (Conv) or input channels (ConvTranspose).
            labels.set(weight, 0, out if out_axis == 0 else ids)
    else:
        out = _couple_grouped(node, labels, ids, group, in_axis, out_axis, c_out)
    if bias:
        labels.set(bias, 0, out)
    labels.set(node.output(), 1, out)


def _couple_grouped(
    node: Node, labels: Labels, ids: Ids | None, group: int, in_axis: int, out_axis: int, c_out: int
) -> Ids:
    """Tie channels at the same position of every group, so that all groups keep the same width."""
    weight = node.input(1)
    fresh = labels.fresh(c_out // group, node, node.output())
    out = np.tile(fresh, group)
    labels.set(weight, out_axis, out if out_axis == 0 else fresh)
    if ids is not None:
        rows = ids.reshape(group, -1)
        for row in rows[1:]:
            labels.tie(rows[0], row)
        tied = ids if in_axis == 0 else rows[0]
        labels.set(weight, in_axis, tied)
        labels.contract(node, weight, in_axis, tied)
    return out


def _linear(node: Node, labels: Labels, in_axis: int, out_axis: int) -> Linear | None:
    source, weight, output = node.input(0), node.input(1), node.output()
    shape = labels.shape(weight)
    if not labels.is_constant(weight):
        return None
    n = len(shape) - 2
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    sizes, kernel = labels.shape(source)[2:], shape[2:]
    pads = (transposed_pads if out_axis == 1 else window_pads)(node, sizes, kernel)
    bias = node.input(2)
    return Linear(
        input=source,
        weight=weight,
        bias=bias or None,
        output=output,
        in_axis=in_axis,
        out_axis=out_axis,
        input_axis=1,
        output_axis=1,
        factors=_factors(node, labels, out_axis),
        group=node.int("group", 1),
        window=Window(tuple(shape[2:]), strides, pads, dilations),
        transposed=out_axis == 1,
    )


def _factors(node: Node, labels: Labels, out_axis: int) -> Factors:
    """The whole weight meets each position of the output (Conv) or of the input (ConvTranspose)."""
    batch, _, *space = labels.shape(node.output() if out_axis == 0 else node.input(0))
    return (*axis_factors(labels, node.input(1)), batch, *space)


def _rewrite(node: Node, edit: Rewriting) -> None:
    group = node.int("group", 1)
    source = edit.shape(node.input(0))
    width = edit.width(node.input(0), 1)
    if group > 1 and source is not None and group == source[1] and width is not None:
        edit.set_attribute("group", width)


def _bias(node: Node, known: Known) -> np.ndarray | None:
    rank = len(known.shape(node.output()))
    if not node.input(2):
        return np.zeros((1,) * rank, known.dtype(node.output()))
    bias = known.value(node.input(2))
    return None if bias is None else bias.reshape(1, -1, *(1,) * (rank - 2))


def _absorb(node: Node, edit: Rewriting, change: Change, out_axis: int) -> bool:
    weight, bias = edit.after(1), edit.after(2)
    if weight is None or weight.dtype.kind != "f" or (node.input(2) and bias is None):
        return False
    width = weight.shape[out_axis] if out_axis == 0 else weight.shape[1] * node.int("group", 1)
    scale_and_shift = change.along(1, width)
    if scale_and_shift is None or (node.int("group", 1) > 1 and out_axis == 1):
        return False
    factor, shift = scale_and_shift
    if (factor != 1).any():
        along = factor.reshape([-1 if axis == out_axis else 1 for axis in range(weight.ndim)])
        edit.set_input(1, (weight * along).astype(weight.dtype))
    if bias is not None or shift.any():
        shift = shift if bias is None else bias * factor + shift
        edit.set_input(2, shift.astype(weight.dtype))
    return True
