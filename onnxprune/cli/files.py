"""Where results go. Checked before the work starts, so that an hour of it is not lost to a typing error."""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from onnxprune.core.errors import InputError
from onnxprune.core.plan import PrunePlan


def check_model_output(path: Path | None, inputs: Iterable[Path | str | None]) -> Path:
    """Check that a model can be written.

    Raises:
        InputError: there is no path, it is not that of a regular file, or see `check_output`.
    """
    if path is None:
        raise InputError("give the file to write: -o OUT.onnx")
    if str(path) == "-" or (path.exists() and not path.is_dir() and not path.is_file()):
        raise InputError(f"--output {path}: a model can only be written to a regular file; give a file name")
    check_output(path, inputs)
    return path


def check_output(path: Path | None, inputs: Iterable[Path | str | None] = (), name: str = "--output") -> None:
    """Check that a file can be written.

    Args:
        path: the file to be written; None and "-" need no check.
        inputs: files that it must not be.
        name: the option, for messages.

    Raises:
        InputError: the folder is missing or not writable, or the path is a folder or an input.
    """
    if path is None or str(path) == "-":
        return
    try:
        if path.is_dir():
            raise InputError(f"{name} {path} is a folder; give a file name")
        folder = path.parent
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist; create it first"
            raise InputError(f"{name} {path}: the folder {folder} {problem}")
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise InputError(f"{name} {path} cannot be written: permission denied")
        for source in inputs:
            if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
                raise InputError(
                    f"{name} {path} is an input of this command, which is never changed; give another name"
                )
    except OSError as error:
        raise InputError(f"{name} {path} cannot be written: {error.strerror}") from None


def check_distinct(**paths: Path | None) -> None:
    """Check that no two outputs are one file.

    Raises:
        InputError: two are.
    """
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is None or str(path) == "-":
            continue
        other = seen.setdefault(path.absolute(), name)
        if other != name:
            raise InputError(f"--{name.replace('_', '-')} and --{other.replace('_', '-')} are both {path}")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a device or a pipe is written to, never replaced
            path.write_text(text, encoding="utf-8")
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def read_plan(path: Path) -> PrunePlan:
    """Read a plan that `--plan-out` wrote.

    Raises:
        InputError: the file cannot be read or is not a plan.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--plan {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return PrunePlan.from_json(text)
    except InputError as error:
        raise InputError(f"--plan {path}: {error}") from None
