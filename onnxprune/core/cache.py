"""Stores intermediate results on disk (scores, refitted layers), so that an interrupted run can go on.

A file is named by a hash of the model, the calibration rows, the options, the versions and the step's name, and holds
plain arrays with a hash of all that. So whatever happened to it, it is taken only where it is what `put` kept there.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxprune.core.arrays import Archive, DamagedError, is_archive
from onnxprune.core.errors import InputError
from onnxprune.core.files import replacing

_LOG = logging.getLogger(__name__)

_MARK = "onnxprune"
"""Name of the hash among the arrays of a file."""


class Cache:
    """Arrays on disk, by step and name. A folder that cannot be written to only causes one warning.

    Args:
        folder: where the files lie, made where it is missing; None keeps nothing.
        origin: what all entries depend on; see `fingerprint`.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: str | None, origin: str = "") -> None:
        self._folder = None if folder is None else Path(folder)
        self._origin = origin
        self._keeps = folder is not None
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"--cache {folder} cannot be made: {reason}") from None

    def get(self, step: str, name: str) -> dict[str, np.ndarray] | None:
        """Read the arrays of an entry; None where there is no valid one."""
        if self._folder is None:
            return None
        path = self._path(self._folder, step, name)
        try:
            if not is_archive(path):
                return None
            with Archive(path) as held:
                arrays = {key: held[key] for key in held}
        except (DamagedError, InputError):
            return None
        mark = arrays.pop(_MARK, None)
        return arrays if mark is not None and np.array_equal(mark, self._mark(step, name, arrays)) else None

    def put(self, step: str, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store the arrays of an entry, if possible."""
        if self._folder is None or not self._keeps:
            return
        path = self._path(self._folder, step, name)
        held = {**arrays, _MARK: self._mark(step, name, arrays)}
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **held)
        except OSError as error:
            self._keeps = False
            _LOG.warning(
                "--cache %s: %s cannot be written (%s); nothing more is kept there",
                self._folder,
                path.name,
                error.strerror,
            )

    def _path(self, folder: Path, step: str, name: str) -> Path:
        return folder / f"{step}-{self._key(step, name).hexdigest()[:32]}.npz"

    def _key(self, step: str, name: str) -> "hashlib._Hash":
        return hashlib.sha256("\0".join((self._origin, step, name)).encode())

    def _mark(self, step: str, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Hash of an entry's name and content, to recognise damaged files."""
        digest = self._key(step, name)
        for key in sorted(arrays):
            array = np.asarray(arrays[key])
            # Types that numpy does not know come back as plain bytes.
            kind = f"V{array.dtype.itemsize}" if array.dtype.kind == "V" else array.dtype.str
            digest.update(repr((key, kind, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return np.frombuffer(digest.digest(), np.uint8)
