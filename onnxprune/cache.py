"""Scores and refitted layers on disk, by the content they were made from: an interrupted run goes on where it stopped.

A file is named by a hash of the model, the calibration rows, the options, the versions and the step's name, and holds
plain arrays. It appears under its name only when it is whole.
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.version import __version__

_ROWS = 64  # hashed at a time


class Cache:
    """Arrays by step and name.

    Args:
        folder: where the files lie, made where it is missing; None keeps nothing.
        origin: what all entries depend on; see `fingerprint`.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: str | None, origin: str = "") -> None:
        self._folder = None if folder is None else Path(folder)
        self._origin = origin
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--cache {folder} cannot be made: {error.strerror}") from None

    def get(self, step: str, name: str) -> dict[str, np.ndarray] | None:
        """The arrays that were put there; None where there are none, or the file is damaged."""
        if self._folder is None:
            return None
        try:
            with np.load(self._path(self._folder, step, name), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def put(self, step: str, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays.

        Raises:
            InputError: the file cannot be written.
        """
        if self._folder is None:
            return
        path = self._path(self._folder, step, name)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:
                np.savez(file, allow_pickle=False, **dict(arrays))
            os.replace(file.name, path)  # noqa: PTH105 (a name, and one step)
        except OSError as error:
            raise InputError(f"--cache {self._folder}: {path.name} cannot be written: {error.strerror}") from None

    def _path(self, folder: Path, step: str, name: str) -> Path:
        digest = hashlib.sha256("\0".join((self._origin, step, name)).encode()).hexdigest()
        return folder / f"{step}-{digest[:32]}.npz"


def fingerprint(model: Model, data: Dataset, options: Mapping[str, object]) -> str:
    """A hash of everything that results depend on: graph, weights, converted rows, options and versions."""
    import onnxruntime

    about = {**options, "onnxprune": __version__, "numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    digest.update(content(model))
    for feed in data.batches(_ROWS):
        for name, array in feed.items():
            _add(digest, name, array)
    return digest.hexdigest()


def content(model: Model) -> bytes:
    """A hash of a model's graph and weights."""
    digest = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    for name in sorted(model.constants):
        _add(digest, name, model.constants[name])
    return digest.digest()


def _add(digest: "hashlib._Hash", name: str, array: np.ndarray) -> None:
    digest.update(repr((name, array.dtype.str, array.shape)).encode())
    digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes())
