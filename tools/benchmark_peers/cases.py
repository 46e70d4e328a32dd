"""Models, budgets and data of the benchmark.

The models and data are not part of the project: they are read from a corpus folder (`--corpus`).
"""

import gzip
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Rows:
    """Images as they are stored, uint8, and their classes: training rows to calibrate on, test rows to count on."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass(frozen=True, slots=True)
class Case:
    """One model.

    Attributes:
        name: short name, as on the command line.
        title: name in the document.
        path: the file in the corpus.
        data: what its rows are read with.
        targets: budgets.
        images: training rows that every tool calibrates on.
        mean: per channel, subtracted after scaling; none where the model takes its images as they are stored.
        std: per channel, divided by.
        scale: factor on the stored images.
        torch: whether a torch network can be built from the file.
        ignored: pattern of layers whose output channels Torch-Pruning must leave alone, beside the last one's: the
            streams that a channel-padding shortcut joins, which it cannot follow.
        normalised: whether the file has BatchNormalization.
        labelled: whether its rows' classes are those of the data; otherwise they are those that the original gives.
    """

    name: str
    title: str
    path: str
    data: Callable[[Path, int], Rows]
    targets: tuple[str, ...]
    images: int = 1000
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float | None = None
    torch: bool = True
    ignored: str = ""
    normalised: bool = False
    labelled: bool = True

    def preprocessing(self) -> dict[str, object]:
        """The fields of `PreprocessConfig` that are not the default."""
        given: dict[str, object] = {"mean": self.mean, "std": self.std, "scale": self.scale}
        return {name: value for name, value in given.items() if value not in ((), None)}


def _idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from a gzipped idx file."""
    data = gzip.decompress(path.read_bytes())
    dims = np.frombuffer(data, ">i4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dims)


def _balanced(y: np.ndarray, images: int) -> np.ndarray:
    """Positions of `images` rows, equally many of each class, drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    classes = np.unique(y)
    chosen = [rng.choice(np.flatnonzero(y == c), images // len(classes), replace=False) for c in classes]
    return np.sort(np.concatenate(chosen))


def _images(folder: Path, images: int) -> Rows:
    """Training rows drawn from a folder of idx files, all its test rows."""
    x, y = _idx(folder / "train-images-idx3-ubyte.gz"), _idx(folder / "train-labels-idx1-ubyte.gz").astype(np.int64)
    rows = _balanced(y, images)
    test = _idx(folder / "t10k-images-idx3-ubyte.gz"), _idx(folder / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
    return Rows(x[rows], y[rows], *test)


def mnist(corpus: Path, images: int) -> Rows:
    """Training rows drawn from the 60,000, all 10,000 test rows."""
    return _images(corpus / "data/mnist", images)


def fashion_mnist(corpus: Path, images: int) -> Rows:
    """Training rows drawn from the corpus's 30,000, all 10,000 test rows."""
    return _images(corpus / "data/fashion_mnist", images)


def cifar10(corpus: Path, images: int) -> Rows:
    """Training rows drawn from the corpus's 5,000, all 10,000 test rows."""
    with np.load(corpus / "data/cifar10_train.npz") as train, np.load(corpus / "data/cifar10_test.npz") as test:
        y = train["y"].astype(np.int64)
        rows = _balanced(y, images)
        return Rows(train["x"][rows], y[rows], test["x"], test["y"].astype(np.int64))


def imagenet_sample(corpus: Path, images: int) -> Rows:
    """500 images of 500 classes; `images` drawn ones to calibrate on, the others to test on."""
    from PIL import Image

    with zipfile.ZipFile(corpus / "data/imagenet_sample_500.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        x = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names])
    y = np.array([int(Path(name).name.split("_")[0]) for name in names])
    order = np.random.default_rng(0).permutation(len(y))
    first, others = np.sort(order[:images]), np.sort(order[images:])
    return Rows(x[first], y[first], x[others], y[others])


CASES = (
    Case(
        "resnet56",
        "ResNet-56, CIFAR-10",
        "models/cifar10_resnet_akamaster/resnet56_cifar10_bn.onnx",
        cifar10,
        ("macs=0.6", "macs=0.5", "macs=0.4", "latency=0.8", "latency=0.6"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        ignored="conv1|.*_conv2",
        normalised=True,
    ),
    Case(
        "resnet20",
        "ResNet-20, CIFAR-10",
        "models/cifar10_resnet_akamaster/resnet20_cifar10_bn.onnx",
        cifar10,
        ("macs=0.75", "macs=0.5", "latency=0.8", "latency=0.6"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        ignored="conv1|.*_conv2",
        normalised=True,
    ),
    Case(
        "resnet8",
        "ResNet-8 (NHWC), CIFAR-10",
        "models/mlperf_tiny/resnet8_cifar10.onnx",
        cifar10,
        ("macs=0.7",),
        torch=False,
    ),
    Case(
        "cifar_base",
        "cifar_base (8 convolutions), CIFAR-10",
        "models/vnncomp2022/cifar_base.onnx",
        cifar10,
        ("macs=0.5",),
        mean=IMAGENET_MEAN,
        std=(0.225,),
    ),
    Case(
        "mb_ts",
        "mb_ts (like MobileNetV2), Fashion-MNIST",
        "small/mb_ts.onnx",
        fashion_mnist,
        ("macs=0.6", "latency=0.8", "latency=0.6"),
        mean=(0.286,),
        std=(0.353,),
    ),
    Case(
        "fc3",
        "FC-3 (784-300-100-10), MNIST",
        "oamip/fc3.onnx",
        mnist,
        ("params=0.2", "params=0.15"),
        mean=(0.1307,),
        std=(0.3081,),
    ),
    Case(
        "mnist_256x4",
        "mnist-net_256x4 (784-256-256-256-256-10), MNIST",
        "models/vnncomp2022/mnist-net_256x4.onnx",
        mnist,
        ("params=0.25",),
        scale=1 / 255,
    ),
    Case(
        "efficientnet_lite0",
        "EfficientNet-Lite0, 500 ImageNet images",
        "models/efficientnet_lite0/efficientnet_lite0_imagenet.onnx",
        imagenet_sample,
        ("macs=0.85", "latency=0.8", "latency=0.6"),
        images=250,
        mean=(127.0,),
        std=(128.0,),
        scale=1.0,
    ),
    Case(
        "nsfwjs_mobilenet_v2",
        "MobileNetV2 classifier (NHWC), agreement on ImageNet images",
        "real/nsfwjs_mobilenet_v2.onnx",
        imagenet_sample,
        ("macs=0.8", "latency=0.8", "latency=0.6"),
        images=250,
        scale=1 / 255,
        torch=False,
        labelled=False,
    ),
)
