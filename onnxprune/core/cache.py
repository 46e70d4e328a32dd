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

from onnxprune.core.errors import InputError


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
