"""Holds the activations of a run: in memory up to a limit, beyond it in temporary files."""

import ctypes
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, BinaryIO

import numpy as np

from onnxprune.core.errors import InputError
from onnxprune.core.text import first_line

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_MAPPED_FROM = 1 << 20


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """The place of an array in a file. It is read, not mapped: mapped pages would count as memory in use."""

    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        self.file.seek(self.offset)
        return np.fromfile(self.file, self.dtype, int(np.prod(self.shape))).reshape(self.shape)


class Room:
    """A limited amount of memory for arrays; those that do not fit are written to a temporary file.

    Files have no name: they end with the process, however it ends, and before that with the last tensor in them.

    Args:
        limit: bytes that tensors may take in memory.

    Raises:
        InputError: a file cannot be written.
    """

    def __init__(self, limit: float = inf) -> None:
        self._limit = limit
        self._held = 0
        self._file: BinaryIO | None = None

    def put(self, value: Any) -> Any:
        """Store a value; returns the value itself, or its place in a file."""
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or self._held + value.nbytes <= self._limit:
            self._held += getattr(value, "nbytes", 0)
            return _own(value)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed with its last tensor)
            place = _OnDisk(self._file, self._file.seek(0, 2), value.shape, value.dtype)
            value.tofile(self._file)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(
                f"{folder}: a run's tensors that exceed the memory for them cannot be written ({first_line(error)}); "
                "set TMPDIR to a folder on a larger disk, give a larger --memory, or fewer rows (--images)"
            ) from error
        return place

    def free(self, value: Any) -> None:
        """Give back the memory of a value that `put` returned."""
        self._held -= getattr(value, "nbytes", 0)

    def new_file(self) -> None:
        """Start a new temporary file. A file's disk space is free once no array in it is in use."""
        self._file = None


def _own(value: Any) -> Any:
    """A copy if the array's memory belongs to an onnxruntime session, which could not free it otherwise."""
    foreign = isinstance(value, np.ndarray) and value.base is not None and not isinstance(value.base, np.ndarray)
    return value.copy() if foreign else value


def give_back_freed() -> None:
    """Make glibc return the memory of freed arrays to the system at once, instead of keeping it."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)


class Batch(Mapping[str, Any]):
    """The tensors of one batch, by name. Those in a file are read anew each time."""

    def __init__(self, room: Room, values: Mapping[str, Any]) -> None:
        self._room = room
        self._values = {name: room.put(value) for name, value in values.items()}

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        return value.read() if isinstance(value, _OnDisk) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def change(self, keep: set[str], new: Mapping[str, Any]) -> None:
        """Drop all tensors but those to keep, then add new ones."""
        for name in self._values.keys() - keep:
            self._room.free(self._values.pop(name))
        self._values |= {name: self._room.put(value) for name, value in new.items()}
