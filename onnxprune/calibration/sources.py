"""Opens data sources: `.npz` and `.npy` files, folders, ONNX test data, Python functions.

Nothing here knows the model: see `rows` for how what a source holds becomes rows of its inputs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxprune.calibration.held import DATA, Held, held_by
from onnxprune.core.arrays import Archive, DamagedError, is_archive, read_npy
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.user_code import UserFunction, module_file, names_function
from onnxprune.graph.model import decoded

FORMS = (
    "an .npz or .npy file, a folder of these, a folder of images, a folder of test_data_set_* folders, "
    "package.module:function, random or synthetic"
)
IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes of image files."""

_READ = IMAGES | {".npz", ".npy", ".pb"}


def files_of(spec: str | Path) -> tuple[Path, ...]:
    """The files that a data source reads: the file itself, the files of a folder, or a function's module."""
    path = Path(spec).absolute()
    if path.is_file():
        return (path,)
    if path.is_dir():
        folders = [path, *(sub for sub in path.iterdir() if sub.is_dir())]
        return tuple(f for folder in folders for f in folder.iterdir() if f.suffix.lower() in _READ and f.is_file())
    module = module_file(str(spec))
    return () if module is None else (module,)


def open_source(spec: str | Path) -> tuple[Iterator[Held], str]:
    """Open a data source: its parts, read when asked for, and a name for messages.

    Raises:
        InputError: it cannot be read, or is of no known form.
    """
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path), str(path)
    if path.is_file():
        if path.suffix.lower() not in (".npz", ".npy"):
            raise InputError(f"{path}: data of this kind are not read; give {FORMS}")
        return _open_file(path, single=False), str(path)
    if isinstance(spec, str) and names_function(spec):
        return _open_function(spec), spec
    raise InputError(f"{path} does not exist; data are {FORMS}")


def _open_file(path: Path, *, single: bool) -> Iterator[Held]:
    """Read an `.npz` or `.npy` file; pickled objects are refused."""
    with _opened(path) as arrays:
        yield Held(arrays, str(path), single=single)


def _open_folder(folder: Path) -> Iterator[Held]:
    """Read a folder: `.npz` and `.npy` files in the order of their names, or ONNX test data."""
    arrays = sorted(f for f in folder.iterdir() if f.suffix.lower() in (".npz", ".npy") and not f.name.startswith("."))
    sets = (
        [folder]
        if (folder / "input_0.pb").is_file()
        else sorted(f for f in folder.glob("test_data_set_*") if f.is_dir())
    )
    if arrays and all(file.suffix.lower() == ".npy" for file in arrays):
        named = {}
        for file in arrays:
            with _opened(file) as held:
                named[file.stem] = held[DATA]
        yield Held(named, str(folder), files=True)
    elif arrays:
        for file in arrays:
            yield from _open_file(file, single=True)
    elif sets:
        for data_set in sets:  # expected outputs are not read
            files = sorted(data_set.glob("input_*.pb"), key=lambda file: (len(file.name), file.name))
            yield Held({file.stem: _tensor(file) for file in files}, str(data_set), ordered=True)
    else:
        raise InputError(f"{folder} holds no .npz, .npy or image files and no test_data_set_* folders")


def _open_function(spec: str) -> Iterator[Held]:
    """Call `package.module:function`, which returns or yields dicts by name, arrays, or `(x, y)`.

    Raises:
        InputError: the function cannot be found, fails, or gives something else.
    """
    with UserFunction(spec) as code:
        given = code.find()()
        feeds = iter((given,)) if _is_feed(given) else given
        if not hasattr(feeds, "__iter__"):
            kind = type(given).__name__
            raise InputError(f"{spec} gave a {kind}; it must return or yield arrays, (x, y) or dicts by input name")
        for feed in feeds:
            held = Held(held_by(feed, spec), spec, single=True)
            try:
                yield held
            except GeneratorExit:  # nobody wants more; one that the user's own code raises is an error
                return


def _is_feed(given: Any) -> bool:
    return isinstance(given, Mapping) or (isinstance(given, tuple) and len(given) == 2) or hasattr(given, "__array__")


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a file by name; members of an `.npz` are read when they are asked for."""
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
