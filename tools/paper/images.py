"""The data sets of the paper: MNIST, Fashion-MNIST and CIFAR-10."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

DATASETS = ("mnist", "fashion_mnist", "cifar10")
HELD_OUT = 5000
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

    def scaled(self, x: np.ndarray) -> "torch.Tensor":
        """`(N, C, H, W)` float32: `(x / 255 - mean) / std`, as `--mean` and `--std` do it."""
        import torch

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
