"""What tests of several folders share: the corpus of real models and data, where it is there."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("onnxprune", deadline=None)
settings.load_profile("onnxprune")

# Commands start as they do for users, with bytecode: else hundreds of processes compile the package, each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

CORPUS = Path(os.environ.get("ONNXPRUNE_CORPUS") or Path(__file__).resolve().parents[1].parent / "shared")


@pytest.fixture(scope="session")
def corpus_path() -> Callable[[str], Path]:
    """A function from a name below the corpus to its path; the test is skipped where the file is missing."""

    def find(name: str) -> Path:
        path = CORPUS / name
        if not path.exists():
            pytest.skip(f"{name} of the corpus is not at {CORPUS} (set ONNXPRUNE_CORPUS)")
        return path

    return find


@pytest.fixture(scope="session")
def mnist_test(corpus_path: Callable[[str], Path]) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 10,000 test images, uint8 `(10000, 28, 28)`, and their classes."""
    folder = corpus_path("data/mnist")
    return read_idx(folder / "t10k-images-idx3-ubyte.gz"), read_idx(folder / "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(scope="session")
def cifar10_test(corpus_path: Callable[[str], Path]) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's 10,000 test images, uint8 `(10000, 32, 32, 3)`, and their classes."""
    with np.load(corpus_path("data/cifar10_test.npz")) as held:
        return held["x"], held["y"]


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of bytes."""
    data = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
