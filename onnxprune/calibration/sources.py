"""Reads the forms in which users give data: arrays, `.npz`, `.npy`, folders, ONNX test data, Python functions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxprune.calibration.rows import DATA, LABELS, Rows, join, pick, rows_of
from onnxprune.core.arrays import Archive, DamagedError, is_archive, read_npy
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.user_code import UserFunction, module_file
from onnxprune.graph.inputs import InputSpec
from onnxprune.graph.model import decoded

FORMS = (
    "an .npz or .npy file, a folder of these, a folder of images, a folder of test_data_set_* folders, "
    "package.module:function, or random"
)
IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes of image files."""

_READ = IMAGES | {".npz", ".npy", ".pb"}


def files_of(spec: str | Path) -> tuple[Path, ...]:
    """The files that rows are read from: the file itself, what a folder holds, or a function's module."""
    path = Path(spec).absolute()
    if path.is_file():
        return (path,)
    if path.is_dir():
        folders = [path, *(sub for sub in path.iterdir() if sub.is_dir())]
        return tuple(f for folder in folders for f in folder.iterdir() if f.suffix.lower() in _READ and f.is_file())
    module = module_file(str(spec))
    return () if module is None else (module,)


def read_file(path: Path, specs: Sequence[InputSpec], layout: str, *, single: bool = False) -> Rows:
    """Rows (or, with `single`, one row) of an `.npz` or `.npy` file; pickled objects are refused."""
    with _opened(path) as held:
        arrays, labels = pick(held, specs, str(path))
    return rows_of(arrays, labels, specs, layout, str(path), single=single)


def read_array_folder(folder: Path, files: Sequence[Path], specs: Sequence[InputSpec], layout: str) -> Rows:
    """Rows of a folder of `.npz` and `.npy` files.

    `.npy` files named after the inputs, `x` and `y` hold one array each; otherwise every file holds rows, or one row,
    and they are strung together in the order of their names.
    """
    known = {spec.name for spec in specs} | {DATA, LABELS}
    if all(file.suffix.lower() == ".npy" and file.stem in known for file in files):
        named = {}
        for file in files:
            with _opened(file) as held:
                named[file.stem] = held[DATA]
        arrays, labels = pick(named, specs, str(folder))
        return rows_of(arrays, labels, specs, layout, str(folder))
    return join([read_file(file, specs, layout, single=True) for file in files], str(folder))


def read_test_data(folder: Path, sets: Sequence[Path], specs: Sequence[InputSpec], layout: str) -> Rows:
    """Rows of ONNX `test_data_set_*` folders (`input_0.pb`, ...; expected outputs are not read)."""
    parts = []
    for data_set in sets:
        files = sorted(data_set.glob("input_*.pb"), key=lambda file: (len(file.name), file.name))
        if len(files) < len(specs):
            raise InputError(f"{data_set}: {len(files)} inputs for a model that takes {len(specs)}")
        arrays = {spec.name: _tensor(file) for spec, file in zip(specs, files, strict=False)}
        parts.append(rows_of(arrays, None, specs, layout, str(data_set)))
    return join(parts, str(folder))


def read_function(spec: str, specs: Sequence[InputSpec], layout: str, limit: int | None) -> Rows:
    """Rows that `package.module:function` returns or yields: dicts by name, arrays, or `(x, y)`; `limit` stops it.

    Raises:
        InputError: the function cannot be found, fails, or gives something else.
    """
    parts: list[Rows] = []
    count = 0
    with UserFunction(spec) as code:
        given = code.find()()
        feeds = iter((given,)) if _is_feed(given) else given
        if not hasattr(feeds, "__iter__"):
            kind = type(given).__name__
            raise InputError(f"{spec} gave a {kind}; it must return or yield arrays, (x, y) or dicts by input name")
        for feed in feeds:
            arrays, labels = pick(held_by(feed, spec), specs, spec)
            parts.append(rows_of(arrays, labels, specs, layout, spec, single=True))
            count += len(parts[-1])
            if limit is not None and count >= limit:
                break
    return join(parts, spec)


def held_by(feed: Any, origin: str) -> dict[str, np.ndarray]:
    """A feed as arrays by name: a mapping, an array, or `(x, y)`.

    Raises:
        InputError: it is something else.
    """
    if isinstance(feed, tuple) and len(feed) == 2:
        data, labels = feed
        return {**held_by(data, origin), LABELS: _array(labels, LABELS, origin)}
    if isinstance(feed, Mapping):
        return {str(name): _array(value, name, origin) for name, value in feed.items()}
    if hasattr(feed, "__array__"):
        return {DATA: _array(feed, DATA, origin)}
    raise InputError(f"{origin}: a {type(feed).__name__} is not an array, (x, y), or a dict of arrays by input name")


def _array(value: Any, name: str, origin: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{origin}: {name!r} is not an array: {error}") from error


def _is_feed(given: Any) -> bool:
    return isinstance(given, Mapping) or (isinstance(given, tuple) and len(given) == 2) or hasattr(given, "__array__")


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """What a file holds by name; the members of an `.npz` are read when they are asked for."""
    try:
        if is_archive(path):
            with Archive(path) as held:
                yield held
        else:
            yield {DATA: read_npy(path)}
    except DamagedError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _tensor(path: Path) -> np.ndarray:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return decoded(tensor, str(path))
    except (DecodeError, ValueError, OSError, ModelError) as error:
        raise InputError(f"{path} does not hold a tensor ({error})") from error
