"""Train the networks of the paper and export them as ONNX files (needs torch).

Without options this makes `models/`: LeNet-5 and FC-3 on MNIST with a manifest, calibration rows and test rows. With
`--network`, `--dataset` and `--out` it trains one network of the paper: FC-3, FC-4, LeNet-5 on MNIST, Fashion-MNIST or
CIFAR-10, and VGG-16 on CIFAR-10. 5,000 training rows are held out for validation and calibration; test rows are only
counted at the end.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paper.images import DATASETS, Images, load_images
from paper.networks import NETWORKS, accuracy
from paper.training import train


def described(
    network: str, images: Images, path: Path, *, seed: int, epochs: int, initial: Path | None = None
) -> dict[str, Any]:
    """Train and export one model, and give the manifest's entry (see `paper.training.train`)."""
    net = train(network, images, path, seed=seed, epochs=epochs, initial=initial)
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
        described(network, images, folder / f"{network}_mnist.onnx", seed=seed, epochs=epochs)
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
    entry = described(
        options.network, images, options.out, seed=options.seed, epochs=options.epochs, initial=options.initial
    )
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
