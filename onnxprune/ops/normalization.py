"""Normalisations: per channel (channels can be pruned) and across channels (these channels stay)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Backward, Known, OpHandler, Rewriting, TorchRule, normal_axis, pass_through
from onnxprune.ops.examples import example
from onnxprune.ops.labels import Labels
from onnxprune.ops.torch_tools import along_channels, as_matrix
from onnxprune.ops.traits import Affine, Change, ChannelValues, Flow, LinearMap, Operands, Range, times


class PerChannelNormalization(OpHandler):
    """BatchNormalization and InstanceNormalization: one set of parameters per channel (axis 1)."""

    op_types = ("BatchNormalization", "InstanceNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """Give every parameter the input's channels."""
        source = node.input(0)
        if node.op_type == "InstanceNormalization":
            _freeze_positions(node, labels)
        pass_through(labels, node, source, node.output())
        for parameter in node.inputs[1:]:
            if not labels.is_constant(parameter):
                labels.freeze_node(node, f"parameter {parameter!r} is computed")
                return
            labels.set(parameter, 0, labels.axis(source, 1))

    def flow(self, node: Node) -> Flow | None:  # noqa: ARG002
        """Each output channel depends only on the same input channel."""
        return Flow.CHANNELWISE

    def bounds(self, node: Node, operands: Sequence[Range | None]) -> Range | None:
        """Bounds of BatchNormalization: `scale (x - mean) / sqrt(var + epsilon) + bias` at both ends."""
        if len(operands) != 5 or None in operands or node.int("training_mode", 0):
            return None
        source, scale, bias, mean, variance = (operand for operand in operands if operand is not None)
        factor = scale.low / np.sqrt(variance.low + float(node.attributes.get("epsilon", 1e-5)))
        ends = np.stack([times(end - mean.low, factor) + bias.low for end in (source.low, source.high)])
        return Range(ends.min(axis=0), ends.max(axis=0))

    def affine(self, node: Node, position: int, values: ChannelValues) -> Affine | None:
        """As an affine function: BatchNormalization with the stored statistics."""
        if position != 0 or values.axis != 1 or len(node.inputs) != 5 or any(node.outputs[1:]):
            return None
        scale, variance = values.constant(node.input(1)), values.constant(node.input(4))
        if scale is None or variance is None or node.int("training_mode", 0):
            return None
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        return Affine(scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon), shift=2)

    def joins_kernel(self, node: Node) -> bool:
        """Folded into the weights."""
        return node.op_type == "BatchNormalization"

    def normalises_batches(self, node: Node) -> bool:
        """BatchNormalization."""
        return node.op_type == "BatchNormalization"

    def at_constant(self, node: Node, known: Known) -> np.ndarray | None:
        """For constant inputs: scaled and shifted by the stored statistics."""
        return known.evaluate(node) if _uses_stored(node) else None

    def absorb(self, node: Node, edit: Rewriting, change: Change) -> bool:
        """Merges an affine change into scale and bias."""
        scale, bias = edit.after(1), edit.after(2)
        if scale is None or bias is None or not _uses_stored(node):
            return False
        along = change.along(1, len(scale))
        if along is None:
            return False
        factor, shift = along
        edit.set_input(1, (scale * factor).astype(scale.dtype))
        edit.set_input(2, (bias * factor + shift).astype(bias.dtype))
        return True

    def matrices(self, node: Node, operands: Operands) -> LinearMap | None:
        """As a matrix: BatchNormalization with the stored statistics."""
        from onnxprune.ops.matrix import forms

        return forms.batch_normalization(node, operands) if _uses_stored(node) else None

    def trains(self, node: Node) -> bool:
        """Whether BatchNormalization takes the statistics of each batch."""
        return bool(node.int("training_mode", 0))

    def torch(self, node: Node) -> TorchRule | None:
        """In torch: with the stored statistics (BatchNormalization), or those of each row's channel."""
        return _batch_normalization(node, training=False) if len(node.inputs) == 5 else _instance_normalization(node)

    def torch_training(self, node: Node) -> TorchRule | None:
        """In torch, for training: with the statistics of the batch, which the stored ones follow."""
        return _batch_normalization(node, training=True) if len(node.inputs) == 5 else _instance_normalization(node)

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: scale and bias."""
        return node.inputs[1:3]

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: one factor per channel, from the stored statistics (BatchNormalization)."""
        if len(node.inputs) != 5 or node.int("training_mode", 0):
            return False
        source = node.input(0)
        scale, variance = back.value(node.input(1)), back.value(node.input(4))
        if scale is None or variance is None:
            return False
        if back.needs(source):
            epsilon = float(node.attributes.get("epsilon", 1e-5))
            factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
            shaped = factor.reshape(1, -1, *(1,) * (len(back.shape(source)) - 2))
            back.add(source, back.node("Mul", [back.gradient(node.output()), back.constant(shaped)]))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: between two convolutions."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            n = BatchNormalization (h, scale, bias, mean, var)
            i = InstanceNormalization (n, scale2, bias2)
            y = Conv (i, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1)}
            | dict.fromkeys(("scale", "bias", "mean", "var", "scale2", "bias2"), (8,)),
        )


class MixingAxis(OpHandler):
    """Softmax and similar operators, which mix the values along one axis: the channels on it stay."""

    op_types = ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """Keep the channels on the normalised axes; other axes pass their channels on."""
        source = node.input(0)
        rank = labels.rank(source)
        old = node.opset < 13 and node.op_type != "LpNormalization"  # then all axes from `axis` on are one
        axis = normal_axis(node.int("axis", 1 if old else -1), rank)
        for position, ids in enumerate(labels.get(source)):
            if position == axis or (old and position > axis):
                labels.freeze_ids(ids, source, f"{node.op_type} normalises across these channels", node)
        pass_through(labels, node, source, node.output())

    def normalises_scores(self, node: Node) -> bool:
        """Softmax and its logarithm."""
        return node.op_type in ("Softmax", "LogSoftmax")

    def torch(self, node: Node) -> TorchRule:
        """In torch: along one axis; before opset 13, along all axes from `axis` on, taken as one."""
        import torch
        from torch.nn import functional

        old = node.opset < 13 and node.op_type != "LpNormalization"
        axis, p = node.int("axis", 1 if old else -1), node.int("p", 2)
        functions: dict[str, TorchRule] = {
            "Softmax": torch.softmax,
            "LogSoftmax": torch.log_softmax,
            "Hardmax": lambda x, d: torch.zeros_like(x).scatter(d, x.argmax(d, keepdim=True), 1.0),
            "LpNormalization": lambda x, d: functional.normalize(x, p, d),
        }
        function = functions[node.op_type]
        return lambda x: function(as_matrix(x, axis), 1).reshape(x.shape) if old else function(x, axis)

    def backward(self, node: Node, back: Backward) -> bool:
        """Gradient: Softmax `y (g - sum y g)` and LogSoftmax `g - e^y sum g` along their axis."""
        source, y = node.input(0), node.output()
        rank = len(back.shape(y))
        axis = normal_axis(node.int("axis", -1 if node.opset >= 13 else 1), rank)
        if node.op_type not in ("Softmax", "LogSoftmax") or (node.opset < 13 and axis != rank - 1):
            return False
        if back.needs(source):
            gradient = back.gradient(y)
            if node.op_type == "Softmax":
                total = back.sum(back.node("Mul", [y, gradient]), [axis], keep=True)
                back.add(source, back.node("Mul", [y, back.node("Sub", [gradient, total])]))
            else:
                total = back.sum(gradient, [axis], keep=True)
                back.add(source, back.node("Sub", [gradient, back.node("Mul", [back.node("Exp", [y]), total])]))
        return True

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: across rows, with channels beside: as it is, and as one of several axes before opset 13."""
        for opset in (17, 12):
            yield example(
                """g (float[N,5,6] x) => (float[N,5,3] y) {
                h = MatMul (x, w1)
                t = Transpose <perm = [0, 2, 1]> (h)
                s = Softmax <axis = 2> (t)
                u = Transpose <perm = [0, 2, 1]> (s)
                y = MatMul (u, w2) }""",
                {"w1": (6, 8), "w2": (8, 3)},
                opset=opset,
            )


class LocalResponse(OpHandler):
    """LRN: normalises by neighbouring channels, so that all channels stay."""

    op_types = ("LRN",)

    def couple(self, node: Node, labels: Labels) -> None:
        """Keep all channels."""
        source = node.input(0)
        labels.freeze_ids(labels.axis(source, 1), source, "LRN mixes neighbouring channels", node)
        pass_through(labels, node, source, node.output())

    def torch(self, node: Node) -> TorchRule:
        """In torch: `x / (bias + alpha / size * sum of squares) ** beta`."""
        import torch

        size, bias = node.int("size", 1), float(node.attributes.get("bias", 1.0))
        alpha, beta = float(node.attributes.get("alpha", 1e-4)), float(node.attributes.get("beta", 0.75))

        def run(x: Any) -> Any:
            front = x.new_zeros(x.shape[0], (size - 1) // 2, *x.shape[2:])
            back = x.new_zeros(x.shape[0], size // 2, *x.shape[2:])
            squares = torch.cat([front, x * x, back], 1).unfold(1, size, 1).sum(-1)
            return x / (bias + alpha / size * squares) ** beta

        return run


class LayerNormalization(OpHandler):
    """LayerNormalization and similar operators: statistics over the last axes, whose channels stay."""

    op_types = ("LayerNormalization", "RMSNormalization")

    def couple(self, node: Node, labels: Labels) -> None:
        """Keep the channels on the normalised axes; other axes pass their channels on."""
        source = node.input(0)
        rank = labels.rank(source)
        for ids in labels.get(source)[normal_axis(node.int("axis", -1), rank) :]:
            labels.freeze_ids(ids, source, f"{node.op_type} normalises across these channels", node)
        pass_through(labels, node, source, node.output())

    def torch(self, node: Node) -> TorchRule:
        """Normalised over the axes from `axis` on, scaled and shifted; also the statistics where they are read."""
        import torch

        axis, eps = node.int("axis", -1), float(node.attributes.get("epsilon", 1e-5))
        centre = node.op_type == "LayerNormalization"

        def run(x: Any, scale: Any, bias: Any = None) -> Any:
            axes = tuple(range(normal_axis(axis, x.dim()), x.dim()))
            mean = x.mean(axes, keepdim=True) if centre else 0.0
            inverse = torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + eps)
            y = (x - mean) * inverse * scale
            return (y if bias is None else y + bias), mean, inverse

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: scale and bias."""
        return node.inputs[1:3]


class GroupNormalization(OpHandler):
    """GroupNormalization: statistics over groups of channels; each group stays or goes as a whole."""

    op_types = ("GroupNormalization",)

    keeps_shape = True  # strict inference refuses it

    def couple(self, node: Node, labels: Labels) -> None:
        """Tie the channels of each group. Parameters are per channel since opset 21, per group before."""
        source, ids = node.input(0), labels.axis(node.input(0), 1)
        _freeze_positions(node, labels)
        pass_through(labels, node, source, node.output())
        if ids is None:
            return
        grid = ids.reshape(node.int("num_groups", 1), -1)
        for column in grid.T[1:]:
            labels.tie(grid[:, 0], column)
        for parameter in node.inputs[1:]:
            if not labels.is_constant(parameter):
                labels.freeze_node(node, f"parameter {parameter!r} is computed")
                return
            labels.set(parameter, 0, ids if labels.shape(parameter) == ids.shape else grid[:, 0])

    def rewrite(self, node: Node, edit: Rewriting) -> None:
        """After removal: as many groups as stay."""
        kept, groups = edit.kept(node.input(0), 1), node.int("num_groups", 1)
        if kept is not None:
            edit.set_attribute("num_groups", int(kept.sum()) * groups // len(kept))

    def examples(self) -> Iterator[onnx.ModelProto]:
        """Example models: between two convolutions."""
        yield example(
            """g (float[N,3,6,6] x) => (float[N,4,A,B] y) {
            h = Conv (x, w1)
            n = GroupNormalization <num_groups = 4> (h, scale, bias)
            y = Conv (n, w2) }""",
            {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1), "scale": (8,), "bias": (8,)},
            opset=21,
        )

    def torch(self, node: Node) -> TorchRule:
        """In torch: scale and bias are per group before opset 21, per channel since."""
        from torch.nn import functional

        groups, eps = node.int("num_groups", 1), float(node.attributes.get("epsilon", 1e-5))

        def run(x: Any, scale: Any, bias: Any) -> Any:
            repeats = x.shape[1] // scale.shape[0]
            scale, bias = (along_channels(p.repeat_interleave(repeats), x) for p in (scale, bias))
            return functional.group_norm(x, groups, eps=eps) * scale + bias

        return run

    def trained(self, node: Node) -> tuple[str, ...]:
        """Fine-tuning changes: scale and bias."""
        return node.inputs[1:3]


def _freeze_positions(node: Node, labels: Labels) -> None:
    """Keep channels on spatial axes, since statistics are taken over them."""
    source = node.input(0)
    for ids in labels.get(source)[2:]:
        labels.freeze_ids(ids, source, f"{node.op_type} normalises across these channels", node)


def _uses_stored(node: Node) -> bool:
    """Whether it is a BatchNormalization with stored statistics."""
    outputs = sum(1 for name in node.outputs if name)
    return node.op_type == "BatchNormalization" and outputs == 1 and not node.int("training_mode", 0)


def _batch_normalization(node: Node, *, training: bool) -> TorchRule | None:
    from torch.nn import functional

    eps, momentum = float(node.attributes.get("epsilon", 1e-5)), float(node.attributes.get("momentum", 0.9))
    if node.int("spatial", 1) == 0 or node.int("training_mode", 0):
        return None

    def run(x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
        return functional.batch_norm(x, mean, var, scale, bias, training, 1 - momentum, eps)

    return run


def _instance_normalization(node: Node) -> TorchRule:
    from torch.nn import functional

    eps = float(node.attributes.get("epsilon", 1e-5))

    def run(x: Any, scale: Any, bias: Any) -> Any:
        return functional.layer_norm(x, x.shape[2:], eps=eps) * along_channels(scale, x) + along_channels(bias, x)

    return run
