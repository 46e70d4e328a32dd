"""Real models compute in torch what they compute in onnxruntime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxprune.calibration.dataset import Dataset
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.torchnet.network import bound_network

pytest.importorskip("torch", reason="fine-tuning needs torch")

_RESNETS = "models/cifar10_resnet_akamaster"


@pytest.mark.parametrize(
    ("file", "shape"),
    [
        (f"{_RESNETS}/resnet20_cifar10.onnx", (3, 32, 32)),
        (f"{_RESNETS}/resnet20_cifar10_bn.onnx", (3, 32, 32)),
        (f"{_RESNETS}/resnet20_cifar10_slim.onnx", (3, 32, 32)),
        ("models/mlperf_tiny/resnet8_cifar10.onnx", (32, 32, 3)),
        ("models/efficientnet_lite0/efficientnet_lite0_imagenet.onnx", (3, 224, 224)),
        ("models/marabou/cnn_max_mninst2.onnx", (28, 28, 1)),
        ("models/vnncomp2021/Convnet_maxpool.onnx", (1, 28, 28)),
        ("models/vnncomp2022/mnist-net_256x4.onnx", (784, 1)),
        ("models/mlperf_tiny/ad01_autoencoder.onnx", (640,)),
        ("models/ultra_light_face/version-slim-320.onnx", (3, 240, 320)),
    ],
    ids=lambda v: Path(v).stem if isinstance(v, str) else "",
)
def test_torch_agrees_with_onnxruntime(corpus_path: Callable[[str], Path], file: str, shape: tuple[int, ...]) -> None:
    model = load(corpus_path(file))
    (name,) = read_graph(model).inputs
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    data = Dataset({name: x}, None, "noise", np.arange(3))
    # Raises where an output differs by more.
    assert bound_network(model, (), data, tolerance=1e-4).parameters
