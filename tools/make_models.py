"""Train the networks of the paper and export them as ONNX files (needs torch).

Without options this makes `models/`: LeNet-5 and FC-3 on MNIST with a manifest, calibration rows and test rows. With
`--network`, `--dataset` and `--out` it trains one network of the paper: FC-3, FC-4, LeNet-5 on MNIST, Fashion-MNIST or
CIFAR-10, and VGG-16 on CIFAR-10. 5,000 training rows are held out for validation and calibration; test rows are only
counted at the end.
"""

import argparse
import gzip
import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DATASETS = ("mnist", "fashion_mnist", "cifar10")
NETWORKS = ("fc3", "fc4", "lenet5", "vgg16")
HELD_OUT = 5000
_SHIFTS = {"lenet5": 1}  # a network this small learns less from images that are shifted further
MEAN = {"mnist": (0.1307,), "fashion_mnist": (0.2860,), "cifar10": (0.4914, 0.4822, 0.4465)}
STD = {"mnist": (0.3081,), "fashion_mnist": (0.3530,), "cifar10": (0.2470, 0.2435, 0.2616)}


@dataclass(frozen=True, slots=True)
class Images:
    """One data set: uint8 images `(N, H, W)` or `(N, H, W, C)` and their classes, training and test."""

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return 1 if self.train_x.ndim == 3 else int(self.train_x.shape[3])

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the values from 0 to 1, a number a channel; measured where the images are not as they came."""
        known = MEAN[self.name]
        return known if len(known) == self.channels else self._measured(np.mean)

    @property
    def std(self) -> tuple[float, ...]:
        """As `mean`: the standard deviations."""
        known = STD[self.name]
        return known if len(known) == self.channels else self._measured(np.std)

    def _measured(self, what: Callable[..., Any]) -> tuple[float, ...]:
        values = what(self.train_x / 255, axis=(0, 1, 2))
        return tuple(round(float(value), 4) for value in np.atleast_1d(values))

    def scaled(self, x: np.ndarray) -> torch.Tensor:
        """`(N, C, H, W)` float32: `(x / 255 - mean) / std`, as `--mean` and `--std` do it."""
        rows = x.astype(np.float32) / 255
        rows = (rows[..., None] if rows.ndim == 3 else rows) - np.array(self.mean, np.float32)
        return torch.from_numpy((rows / np.array(self.std, np.float32)).transpose(0, 3, 1, 2).copy())

    def shaped_as(self, other: "Images") -> "Images":
        """The images as a network for another set takes them: grey or in three equal channels, cut or padded."""
        side = other.train_x.shape[1]
        parts = (_sized(_coloured(x, other.channels), side) for x in (self.train_x, self.test_x))
        train_x, test_x = parts
        return Images(self.name, train_x, self.train_y, test_x, self.test_y)

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers for training and the held-out rows (a twelfth of the rows where there are few)."""
        order = np.random.default_rng(seed).permutation(len(self.train_x))
        held_out = min(HELD_OUT, len(order) // 12)
        return np.sort(order[held_out:]), np.sort(order[:held_out])


def _coloured(x: np.ndarray, channels: int) -> np.ndarray:
    """Images with 1 channel (the luma of ITU-R BT.601) or 3."""
    if channels == 1 and x.ndim == 4:
        return np.asarray(np.rint(x @ np.array([0.299, 0.587, 0.114])), np.uint8)
    return np.repeat(x[..., None], channels, axis=3) if channels > 1 and x.ndim == 3 else x


def _sized(x: np.ndarray, side: int) -> np.ndarray:
    """Square images of another size: their middle, or with black around them."""
    more = side - x.shape[1]
    if more <= 0:
        cut = -more // 2
        return x[:, cut : cut + side, cut : cut + side]
    border = (more // 2, more - more // 2)
    return np.pad(x, ((0, 0), border, border, *[(0, 0)] * (x.ndim - 3)))


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from a gzipped idx file."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is not an idx file of bytes")
    dims = np.frombuffer(data, ">i4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dims)


def load_images(name: str, folder: Path) -> Images:
    """Read a data set: four idx.gz files, `cifar10.npz` (all of it), or `cifar10_train.npz` and `cifar10_test.npz`."""
    if name == "cifar10" and (folder / "cifar10.npz").exists():
        held = np.load(folder / "cifar10.npz")
        train_y, test_y = (held[key].astype(np.int64) for key in ("y_train", "y_test"))
        return Images(name, held["x_train"], train_y, held["x_test"], test_y)
    if name == "cifar10":
        train, test = (np.load(folder / f"cifar10_{part}.npz") for part in ("train", "test"))
        return Images(name, train["x"], train["y"].astype(np.int64), test["x"], test["y"].astype(np.int64))
    train_x, train_y, test_x, test_y = (
        read_idx(folder / f"{part}-ubyte.gz")
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    )
    return Images(name, train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


def build(network: str, dataset: str, seed: int) -> nn.Sequential:
    """A network of the paper with its initial weights.

    Args:
        network: one of `NETWORKS`.
        dataset: one of `DATASETS`; decides the input's shape.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    channels, side = (3, 32) if dataset == "cifar10" else (1, 28)
    if network == "vgg16":
        return _vgg16(channels)
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


def _vgg16(channels: int) -> nn.Sequential:
    """VGG-16 for 32x32 images: thirteen 3x3 convolutions with batch normalisation, one hidden linear layer."""
    layers: dict[str, nn.Module] = {}
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for number in range(1, depth + 1):
            name = f"conv{stage}_{number}"
            layers[name] = nn.Conv2d(channels, width, 3, padding=1)
            layers |= {f"{name}_bn": nn.BatchNorm2d(width), f"{name}_relu": nn.ReLU()}
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(512, 512), "fc1_relu": nn.ReLU(), "fc2": nn.Linear(512, 10)}
    return nn.Sequential(OrderedDict(layers))


def fit(
    net: nn.Module,
    images: Images,
    *,
    epochs: int,
    seed: int,
    batch: int = 64,
    lr: float = 1e-3,
    shift: int = 4,
    say: Callable[[str], None] = print,
) -> None:
    """Train in place: RMSprop with a cosine schedule, cross-entropy; flips and shifts of some pixels on CIFAR-10."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, _ = images.split(seed)
    x, y = images.scaled(images.train_x[rows]).to(device), torch.from_numpy(images.train_y[rows]).to(device)
    net.to(device).train()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=lr)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x), generator=generator).split(batch):
            inputs = x[index.to(device)]
            if images.name == "cifar10":
                inputs = _augmented(inputs, shift, generator)
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(net(inputs), y[index.to(device)])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        say(f"epoch {epoch + 1}/{epochs}: loss {total / len(x):.4f}")
    net.to("cpu").eval()


def _augmented(x: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Half of the images mirrored, each batch shifted by up to some pixels."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device) < 0.5
    x = torch.where(mirrored, x.flip(-1), x)
    across, down = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
    padded = nn.functional.pad(x, (shift, shift, shift, shift))
    return padded[..., down : down + x.shape[-2], across : across + x.shape[-1]]


def accuracy(net: nn.Module, x: torch.Tensor, y: np.ndarray) -> float:
    """Share of rows whose arg-max is the label."""
    with torch.inference_mode():
        predicted = torch.cat([net(part).argmax(1) for part in x.split(1000)])
    return float((predicted.numpy() == y).mean())


def export(net: nn.Module, path: Path, dataset: str) -> None:
    """Write an ONNX file with a free batch size."""
    shape = (1, 3, 32, 32) if dataset == "cifar10" else (1, 1, 28, 28)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        net,
        (torch.zeros(shape),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def train(
    network: str, images: Images, path: Path, *, seed: int, epochs: int, initial: Path | None = None
) -> dict[str, Any]:
    """Train, export, and describe one model.

    Args:
        network: one of `NETWORKS`.
        images: the data set.
        path: where the trained model goes.
        seed: of the weights, the order of rows and the held-out rows.
        epochs: passes over the training rows.
        initial: where the untrained model goes, if anywhere.

    Returns:
        The manifest's entry.
    """
    torch.use_deterministic_algorithms(True)
    net = build(network, images.name, seed)
    if initial is not None:
        export(net.eval(), initial, images.name)
    fit(net, images, epochs=epochs, seed=seed, shift=_SHIFTS.get(network, 4))
    export(net, path, images.name)
    _, held_out = images.split(seed)
    return {
        "file": path.name,
        "network": network,
        "dataset": images.name,
        "top1_test": accuracy(net, images.scaled(images.test_x), images.test_y),
        "top1_held_out": accuracy(net, images.scaled(images.train_x[held_out]), images.train_y[held_out]),
        "preprocessing": {"formula": "(x / 255 - mean) / std", "mean": images.mean, "std": images.std},
        "layout": "NCHW",
        "epochs": epochs,
        "seed": seed,
        "torch": torch.__version__,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
    }


def balanced(labels: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the rows, the same number from each class, ascending."""
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(np.concatenate([order[labels[order] == c][: count // 10] for c in range(10)]))


def write_rows(path: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A compressed npz of uint8 images `x` and classes `y`, and its manifest entry."""
    np.savez_compressed(path, x=x, y=y.astype(np.int64))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "file": path.name,
        "rows": len(x),
        "sha256": digest,
        "licence": "MNIST, Yann LeCun and Corinna Cortes: CC BY-SA 3.0",
    }


def make_shipped(folder: Path, images: Images, seed: int, epochs: int) -> None:
    """Everything in `models/`."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        train(network, images, folder / f"{network}_mnist.onnx", seed=seed, epochs=epochs)
        for network in ("lenet5", "fc3")
    ]
    _, held_out = images.split(seed)
    rows = balanced(images.train_y, held_out, 1000, seed)
    test = balanced(images.test_y, np.arange(len(images.test_x)), 2000, seed)
    data = [
        write_rows(folder / "mnist_calibration.npz", images.train_x[rows], images.train_y[rows])
        | {"from": "training set, rows held out of the training of the models here"},
        write_rows(folder / "mnist_test.npz", images.test_x[test], images.test_y[test]) | {"from": "test set"},
    ]
    text = json.dumps({"models": models, "data": data}, indent=2)
    (folder / "manifest.json").write_text(text + "\n")
    print(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/mnist"), help="folder with the data set's files"
    )
    parser.add_argument("--dataset", choices=DATASETS, default="mnist")
    parser.add_argument("--network", choices=NETWORKS, help="train this one only, and write --out")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder, or with --network the .onnx file")
    parser.add_argument("--initial", type=Path, help="with --network: also write the untrained model here")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images = load_images(options.dataset, options.data)
    if options.network is None:
        make_shipped(options.out, images, options.seed, options.epochs)
        return
    entry = train(
        options.network, images, options.out, seed=options.seed, epochs=options.epochs, initial=options.initial
    )
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
