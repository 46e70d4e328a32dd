"""Reads `.npy` and `.npz` files safely: files that are damaged or malicious raise a `DamagedError`.

numpy's own reader takes sizes from the file, maps what may be shortened later, and raises whatever its parts raise.
"""

import ast
import lzma
import os
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from onnxprune.core.files import open_to_read
from onnxprune.core.memory import require

_MAGIC = b"\x93NUMPY"
_ZIP = b"PK"
_MOST_HEADER = 1 << 16
_MOST_AXES = 32
# Larger plain arrays are mapped, so that a few rows of them cost a few rows of memory.
_READ_BYTES = 1 << 28
_BROKEN = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)
_BROKEN_ZIP = (
    *_BROKEN,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    RuntimeError,
)


class DamagedError(Exception):
    """A file that does not hold valid arrays. The message says why, without the file's name."""


def read_npy(path: Path) -> np.ndarray:
    """Read the array of an `.npy` file; large ones are memory-mapped. Read-only.

    Raises:
        DamagedError: it cannot be read.
        InputError: it takes more memory than there is.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, dtype, size = _header(file)
            if size > os.fstat(file.fileno()).st_size - file.tell():
                raise DamagedError(f"it is cut off: {dtype.name} {list(shape)} takes {size} bytes")
            if size > _READ_BYTES:
                return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
            return _filled(file, shape, fortran, dtype, size)
    except _BROKEN as error:
        raise DamagedError(_reason(error)) from error


def is_archive(path: Path) -> bool:
    """Whether a file is an `.npz` archive, whatever its name.

    Raises:
        DamagedError: it is neither that nor an `.npy` file.
    """
    try:
        with open_to_read(path) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DamagedError("it is no plain file")
            start = file.read(len(_MAGIC))
    except _BROKEN as error:
        raise DamagedError(_reason(error)) from error
    if not start.startswith((_MAGIC, _ZIP)):
        raise DamagedError("it is empty" if not start else "it holds no plain arrays (pickled objects are not read)")
    return start.startswith(_ZIP)


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file by name, each read when it is asked for.

    Raises:
        DamagedError: the file, or the array that is asked for, cannot be read.
        InputError: an array takes more memory than there is.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = zipfile.ZipFile(path)
            self._members = {info.filename.removesuffix(".npy"): info for info in self._file.infolist()}
        except _BROKEN_ZIP as error:
            raise DamagedError(_reason(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        try:
            with self._file.open(info) as file:
                shape, fortran, dtype, size = _header(file)
                require(size, f"{self._file.filename}: array {name!r}")
                array = _filled(file, shape, fortran, dtype, size)
                if file.read(1):  # at the end the check sum is compared
                    raise DamagedError(f"more follows than {dtype.name} {list(shape)} takes")
                return array
        except _BROKEN_ZIP as error:
            raise DamagedError(_reason(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read the header of an array: shape, Fortran order, type, and size in bytes."""
    start = _exactly(file, len(_MAGIC) + 2)
    if not start.startswith(_MAGIC) or start[-2] not in (1, 2, 3):
        raise DamagedError("it is no plain array (pickled objects are not read)")
    length = struct.unpack("<H", _exactly(file, 2))[0] if start[-2] == 1 else struct.unpack("<I", _exactly(file, 4))[0]
    if length > _MOST_HEADER:
        raise DamagedError("its header is too long")
    text = _exactly(file, length).decode("utf-8" if start[-2] == 3 else "latin1")
    try:
        about: Any = ast.literal_eval(text.strip())
        shape, fortran = about["shape"], about["fortran_order"]
        dtype = np.dtype(np.lib.format.descr_to_dtype(about["descr"]))
    except (*_BROKEN, SyntaxError, RecursionError, MemoryError) as error:
        raise DamagedError(f"its header is damaged ({_reason(error)})") from error
    if dtype.hasobject:
        raise DamagedError("it is no plain array (pickled objects are not read); store numbers with numpy.savez")
    whole = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or not isinstance(fortran, bool) or len(shape) > _MOST_AXES:
        raise DamagedError(f"its shape is impossible: {shape!r}"[:200])
    size = prod(shape) * dtype.itemsize
    if prod(max(axis, 1) for axis in shape) * max(dtype.itemsize, 1) >= 1 << 62:
        raise DamagedError(f"its shape is impossible: {list(shape)}"[:200])
    return shape, fortran, dtype, size


def _filled(file: IO[bytes], shape: tuple[int, ...], fortran: bool, dtype: np.dtype, size: int) -> np.ndarray:
    array = np.frombuffer(_exactly(file, size), np.uint8).view(dtype) if size else np.zeros(prod(shape), dtype)
    if dtype.kind == "U" and (array.view(np.dtype("u4").newbyteorder(dtype.byteorder)) > sys.maxunicode).any():
        raise DamagedError("it holds numbers that are no characters")
    return array.reshape(shape, order="F" if fortran else "C")


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise DamagedError(f"it is cut off: {size} bytes should follow, {len(data)} do")
    return data


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
