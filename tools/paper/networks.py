"""The networks of the paper, in torch."""

import copy
import itertools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

NETWORKS = ("fc3", "fc4", "lenet5", "vgg16")


def build(network: str, dataset: str, seed: int, width: float = 1.0) -> nn.Sequential:
    """A network of the paper with its initial weights.

    Args:
        network: one of `NETWORKS`.
        dataset: one of `DATASETS`; decides the input's shape.
        seed: of the weights.
        width: share of the units that VGG-16 has in each layer.
    """
    torch.manual_seed(seed)
    channels, side = input_shape(dataset)[1:3]
    if network == "vgg16":
        return _vgg16(channels, width)
    layers: dict[str, nn.Module] = {}
    if network == "lenet5":
        layers["conv1"] = nn.Conv2d(channels, 6, 5, padding=(32 - side) // 2)
        layers |= {"relu1": nn.ReLU(), "pool1": nn.AvgPool2d(2), "conv2": nn.Conv2d(6, 16, 5)}
        layers |= {"relu2": nn.ReLU(), "pool2": nn.AvgPool2d(2)}
        widths = (16 * 5 * 5, 120, 84)
    else:
        widths = (channels * side * side, *((300, 100) if network == "fc3" else (200, 100, 100)))
    layers["flatten"] = nn.Flatten()
    for number, (width_in, width_out) in enumerate(itertools.pairwise(widths), 1):
        layers |= {f"fc{number}": nn.Linear(width_in, width_out), f"fc{number}_relu": nn.ReLU()}
    layers[f"fc{len(widths)}"] = nn.Linear(widths[-1], 10)
    return nn.Sequential(OrderedDict(layers))


def input_shape(dataset: str) -> tuple[int, ...]:
    """One image of a data set, as a network takes it."""
    return (1, 3, 32, 32) if dataset == "cifar10" else (1, 1, 28, 28)


def _vgg16(channels: int, share: float) -> nn.Sequential:
    """VGG-16 for 32x32 images: thirteen 3x3 convolutions with batch normalisation, one hidden linear layer."""
    layers: dict[str, nn.Module] = {}
    for stage, (whole, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        width = round(share * whole)
        for number in range(1, depth + 1):
            name = f"conv{stage}_{number}"
            layers[name] = nn.Conv2d(channels, width, 3, padding=1)
            layers |= {f"{name}_bn": nn.BatchNorm2d(width), f"{name}_relu": nn.ReLU()}
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(channels, channels), "fc1_relu": nn.ReLU()}
    layers["fc2"] = nn.Linear(channels, 10)
    return nn.Sequential(OrderedDict(layers))


def accuracy(net: nn.Module, x: torch.Tensor, y: np.ndarray) -> float:
    """Share of rows whose arg-max is the label."""
    with torch.inference_mode():
        predicted = torch.cat([net(part).argmax(1) for part in x.split(1000)])
    return float((predicted.numpy() == y).mean())


def export(net: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    """Write an ONNX file with a free batch size; `shape` is that of one row of the input."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, modes = copy.deepcopy(net), torch.onnx.TrainingMode
    normalisations = [module for module in written.modules() if isinstance(module, nn.BatchNorm2d)]
    # Equal arrays would become one in the file, and could then not be trained apart.
    for number, module in enumerate(normalisations):
        for position, tensor in enumerate((module.weight, module.bias, module.running_mean, module.running_var)):
            nn.init.constant_(tensor, 4 * number + position + 2)
    torch.onnx.export(
        written,
        (torch.zeros(shape),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        # Folded into the convolutions, normalisation could not be trained again.
        training=modes.PRESERVE if normalisations else modes.EVAL,
        dynamo=False,
    )
    if normalisations:
        model, values = onnx.load(path), net.state_dict()
        for stored in model.graph.initializer:
            if stored.name in values:
                stored.CopyFrom(numpy_helper.from_array(values[stored.name].numpy(), stored.name))
        onnx.save(model, path)
