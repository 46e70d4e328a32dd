"""Write the small models of `tests/data`: what the usual exporters make of the same kinds of network.

    python tools/make_test_models.py [FOLDER]

Needs torch and onnxscript. The files are committed; run this again only to change them.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 0


def torch_network() -> Any:
    """A residual network with a squeeze-excitation, a channel shuffle, an attention block and a classifier."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU())
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
            self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)
            self.hidden, self.back = nn.Linear(8, 12), nn.Linear(12, 8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            n, c, h, w = x.shape
            shuffled = self.body(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            x = x + shuffled * torch.sigmoid(self.gate(shuffled))
            x = functional.max_pool2d(x, 2).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
            q, k, v = (t.reshape(t.shape[0], t.shape[1], 2, 4).transpose(1, 2) for t in (q, k, v))
            mixed = torch.softmax(q @ k.transpose(-1, -2) / 2.0, dim=-1) @ v
            x = x + self.out(mixed.transpose(1, 2).flatten(2))
            x = x + self.back(functional.gelu(self.hidden(x)))
            return self.head(x.mean(1))

    torch.manual_seed(SEED)
    return Network().eval()


def export_torch(path: Path, *, dynamo: bool) -> None:
    """One of torch's two exporters."""
    import torch

    example = (torch.zeros(2, 3, 8, 8),)
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            torch_network(), example, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
        )
    else:
        torch.onnx.export(
            torch_network(),
            example,
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=17,
        )


def channels_last() -> onnx.ModelProto:
    """As tf2onnx writes a Keras network: NHWC in and out of transposes, MatMul and Add for a dense layer."""
    rng = np.random.default_rng(SEED)

    def weight(*shape: int) -> np.ndarray:
        spread = float(np.sqrt(2 / np.prod(shape[1:])))
        return np.asarray(rng.standard_normal(shape) * spread, np.float32)

    constants = {
        "conv/kernel": weight(8, 3, 3, 3),
        "conv/bias": weight(8),
        "depthwise/kernel": weight(8, 1, 3, 3),
        "pointwise/kernel": weight(6, 8, 1, 1),
        "dense/kernel": weight(6 * 16, 5),
        "dense/bias": weight(5),
        "flat": np.array([-1, 6 * 16]),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "conv/kernel", "conv/bias"], ["conv"], auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Conv", ["relu", "depthwise/kernel"], ["depthwise"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["depthwise", "pointwise/kernel"], ["pointwise"]),
        helper.make_node("MaxPool", ["pointwise"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["pool"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["nhwc", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "dense/kernel"], ["dense"]),
        helper.make_node("Add", ["dense", "dense/bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    return _model(nodes, constants, ["batch", 8, 8, 3], 13)


def constant_weights() -> onnx.ModelProto:
    """As Paddle writes it: weights in Constant nodes, batch normalisation apart, hard-swish by its parts."""
    rng = np.random.default_rng(SEED)
    values = {
        "w0": (rng.standard_normal((8, 3, 3, 3)) * 0.3).astype(np.float32),
        **{name: rng.uniform(0.5, 1.5, 8).astype(np.float32) for name in ("scale", "bias", "mean", "var")},
        "three": np.array(3, np.float32),
        "six": np.array(6, np.float32),
        "zero": np.array(0, np.float32),
        "w1": (rng.standard_normal((8, 4, 2, 2)) * 0.3).astype(np.float32),
        "b1": rng.standard_normal((1, 4, 1, 1)).astype(np.float32),
        "w2": (rng.standard_normal((8, 8, 1, 1)) * 0.3).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w3": (rng.standard_normal((2, 12, 1, 1)) * 0.3).astype(np.float32),
    }
    nodes = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v)) for n, v in values.items()]
    nodes += [
        helper.make_node("Conv", ["x", "w0"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["conv", "scale", "bias", "mean", "var"], ["bn"]),
        helper.make_node("Add", ["bn", "three"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "zero", "six"], ["clipped"]),
        helper.make_node("Mul", ["bn", "clipped"], ["product"]),
        helper.make_node("Div", ["product", "six"], ["hswish"]),
        helper.make_node("ConvTranspose", ["hswish", "w1"], ["up"], strides=[2, 2]),
        helper.make_node("Add", ["up", "b1"], ["biased"]),
        helper.make_node("Conv", ["hswish", "w2"], ["side"]),
        helper.make_node("Resize", ["side", "", "scales"], ["resized"], mode="nearest"),
        helper.make_node("Concat", ["biased", "resized"], ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "w3"], ["map"]),
        helper.make_node("Sigmoid", ["map"], ["y"]),
    ]
    return _model(nodes, {}, ["batch", 3, "height", "width"], 13)


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[Any], opset: int
) -> onnx.ModelProto:
    rank = 4 if nodes[-1].op_type == "Sigmoid" else 2
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def main(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    export_torch(folder / "torchscript.onnx", dynamo=False)
    export_torch(folder / "dynamo.onnx", dynamo=True)
    onnx.save(channels_last(), str(folder / "channels_last.onnx"))
    onnx.save(constant_weights(), str(folder / "constant_weights.onnx"))
    for path in sorted(folder.glob("*.onnx")):
        print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "tests" / "data")
