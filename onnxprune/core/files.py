"""Writes output files completely or not at all; devices and pipes are written to directly. Reads files and pipes.

A link is followed to the file that it names, and stays. What is neither a plain file, a pipe, a character device nor an
open descriptor is refused.
"""

import errno
import os
import re
import secrets
import shutil
import signal
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from time import monotonic, sleep
from typing import BinaryIO

from onnxprune.core.errors import InputError

_MOST_LINKS = 40
_DESCRIPTOR_FOLDER = re.compile(r"/proc/(?P<process>self|thread-self|[0-9]+)(/task/[0-9]+)?/fd")
_TRIES = 100
_PATIENCE_S = 5.0  # for somebody to write into a pipe that is read
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an output is written to; made by `place`.

    Attributes:
        path: as the user named it.
        file: the plain file to make or replace, all links followed; None where bytes go into what is there already.
        descriptor: the open descriptor that the path stands for (`/dev/stdout`, `/proc/self/fd/3`), or None.
        is_device: whether it is a character device, or a descriptor of a terminal.
    """

    path: Path
    file: Path | None
    descriptor: int | None = None
    is_device: bool = False

    def write(self, data: bytes) -> None:
        """Write the data: a file is replaced in one step, a device or pipe is written into.

        Raises:
            InputError: the bytes cannot be written; a plain file is then as it was.
        """
        try:
            if self.file is not None:
                with replacing(self.file) as partial:
                    partial.write_bytes(data)
            elif self.descriptor is not None:
                _pour(os.dup(_MOVED.get(self.descriptor, self.descriptor)), data)
            else:
                _pour(os.open(self.path, os.O_WRONLY), data)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror or error}") from None


def place(path: Path, name: str = "", *, model: bool = False) -> Place:
    """Find out where an output goes, and check that it can be written. Changes nothing.

    Args:
        path: as the user named it.
        name: what the message calls it, for example an option.
        model: whether it is a model, which no device can use.

    Raises:
        InputError: the name is too long or no text, the folder is missing or cannot be written to, or the path leads to
            something that is no file.
    """
    what = f"{name} {path}".strip()
    try:
        os.fsencode(path).decode("utf-8")
        goal = _followed(path, what)
        if model and goal.is_device:
            raise InputError(f"{what}: a model can only be written to a regular file or a pipe; give a file name")
        return goal
    except UnicodeError:
        raise InputError(f"{what} cannot be written: the name is no UTF-8 text; choose another name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} cannot be written: {reason}; choose another name") from None


def _followed(path: Path, what: str) -> Place:
    current = path
    for _ in range(_MOST_LINKS):
        folder = Path(os.path.realpath(current.parent))
        current = folder / current.name
        if (match := _DESCRIPTOR_FOLDER.fullmatch(str(folder))) and current.name.isdecimal():
            if match["process"] in ("self", "thread-self", str(os.getpid())):
                return _descriptor(path, int(current.name), what)
            return Place(path, None)
        try:
            mode = os.lstat(current).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return _plain(path, current, what)
        if stat.S_ISLNK(mode):
            current = folder / current.readlink()
        elif stat.S_ISDIR(mode) or not current.name:
            raise InputError(f"{what} is a folder; give a file name")
        elif stat.S_ISREG(mode):
            return _plain(path, current, what)
        elif not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            raise InputError(f"{what} is neither a regular file nor a pipe; give a file name")
        elif not os.access(current, os.W_OK):
            raise InputError(f"{what} cannot be written: permission denied")
        else:
            return Place(path, None, is_device=stat.S_ISCHR(mode))
    raise InputError(f"{what} cannot be written: its links lead nowhere")


def _plain(path: Path, file: Path, what: str) -> Place:
    folder = file.parent
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist; create it first"
        shown = path.parent if os.path.realpath(path.parent) == str(folder) else folder
        raise InputError(f"{what}: the folder {shown} {problem}")
    if file.exists() and not os.access(file, os.W_OK):
        raise InputError(f"{what} cannot be written: permission denied")
    with temporary(folder) as probe:  # read-only file systems and full folders say so only when they are asked
        probe.touch()
    return Place(path, file)


def _descriptor(path: Path, number: int, what: str) -> Place:
    import fcntl

    try:
        mode = fcntl.fcntl(_MOVED.get(number, number), fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        raise InputError(f"{what} cannot be written: descriptor {number} is closed") from None
    if mode == os.O_RDONLY:
        raise InputError(f"{what} cannot be written: descriptor {number} is not open for writing")
    return Place(path, None, number, is_device=os.isatty(_MOVED.get(number, number)))


_MOVED: dict[int, int] = {}
"""Descriptors that this process has put elsewhere for a time: what users mean by their number, and where it is now."""


@contextmanager
def moved(number: int, now: int) -> Iterator[None]:
    """Context in which paths to descriptor `number` mean descriptor `now`."""
    _MOVED[number] = now
    try:
        yield
    finally:
        del _MOVED[number]


def _pour(descriptor: int, data: bytes) -> None:
    """Write all bytes to a descriptor, and close it."""
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def read_text(path: Path, most: int) -> str:
    """Read the text of a file or pipe.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8 text, or more than `most` bytes.
    """
    with open_to_read(path) as file:
        data = read_up_to(file, most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return data.decode("utf-8")


def open_to_read(path: Path) -> BinaryIO:
    """Open a file or pipe. A pipe opens at once too, before somebody writes into it.

    Raises:
        OSError: it cannot be read.
    """
    # The flag changes nothing for plain files.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_up_to(file: BinaryIO, most: int) -> bytes:
    """Read at most so many bytes of what `open_to_read` opened; a pipe is waited for, unless nobody writes into it.

    Raises:
        OSError: it cannot be read.
    """
    start = b""
    if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        until = monotonic() + _PATIENCE_S
        with suppress(BlockingIOError):  # a writer is there, who has yet to write
            while not (start := os.read(file.fileno(), 1)):
                if monotonic() > until:
                    raise TimeoutError(errno.ETIMEDOUT, "it is a pipe, and nobody writes into it")
                sleep(0.02)
        os.set_blocking(file.fileno(), True)
    return start + file.read(most - len(start))


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to the same file, also through symbolic and hard links."""
    identity = _identity(first)
    return os.path.realpath(first) == os.path.realpath(second) if identity is None else identity == _identity(second)


def refuse_inputs(place: Place, read: Iterable[Path], name: str = "") -> None:
    """Raise an error if the output is one of the files that are read.

    Raises:
        InputError: it is.
    """
    identity = None if place.file is None else _identity(place.file)
    if identity is None:  # there is nothing yet that anybody could have read
        return
    for source in read:
        if _identity(source) == identity:
            what = f"{name} {place.path}".strip()
            raise InputError(f"{what} is an input of this run ({source}), which is never changed; give another name")


def _identity(path: Path) -> tuple[int, int] | None:
    """What identifies a file under all its names; None where it does not exist."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Context with a temporary path beside `file`; at the end it replaces the file, on an error it is removed."""
    with temporary(file.parent) as partial:
        yield partial
        settle(partial, file)


def settle(partial: Path, file: Path) -> None:
    """Move a finished file to its final name in one step; it gets the permissions of the file it replaces."""
    with suppress(FileNotFoundError):
        partial.chmod(stat.S_IMODE(file.stat().st_mode))
    partial.replace(file)


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """Context with an unused name in a folder; a file of that name is removed at the end, or on a signal."""
    for _ in range(_TRIES):
        path = folder / f".onnxprune-{secrets.token_hex(6)}"
        if not os.path.lexists(path):
            break
    with _UNFINISHED.holding(path):
        yield path


@contextmanager
def unless_finished(path: Path) -> Iterator[None]:
    """Context that removes a file if its block ends with an error, or the process is ended."""
    with _UNFINISHED.holding(path, keep=True):
        yield


@contextmanager
def temporary_folder(within: Path | None = None) -> Iterator[Path]:
    """Context with a new folder that only this user can enter; removed at the end, or on a signal.

    Raises:
        InputError: there is no room for temporary files.
    """
    import tempfile

    try:
        with temporary(Path(tempfile.gettempdir()) if within is None else within) as path:
            path.mkdir(mode=0o700)
            yield path
    except OSError as error:
        if within is None and error.errno in _NO_ROOM:
            raise InputError(
                f"{tempfile.tempdir or 'temporary files'} cannot be written ({error.strerror or error}); set TMPDIR to "
                "a folder on a larger disk"
            ) from error
        raise


class _Unfinished:
    """Files and folders to remove when this process ends early, also by SIGTERM or SIGHUP."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()
        self._taken: list[int] = []

    @contextmanager
    def holding(self, path: Path, *, keep: bool = False) -> Iterator[None]:
        """Context that removes a path at its end; with `keep`, only if it ends early."""
        self._paths.add(path)
        self._listen()
        try:
            yield
            if keep:
                self._paths.discard(path)
        finally:
            if path in self._paths:
                _remove(path)
                self._paths.discard(path)
            self._rest()

    def _listen(self) -> None:
        """Install signal handlers, except where somebody else has."""
        if self._taken or current_thread() is not main_thread():
            return
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._leave)
                self._taken.append(number)

    def _rest(self) -> None:
        if self._paths or current_thread() is not main_thread():
            return
        while self._taken:
            signal.signal(self._taken.pop(), signal.SIG_DFL)

    def _leave(self, number: int, *_: object) -> None:
        for path in [*self._paths]:
            _remove(path)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


_UNFINISHED = _Unfinished()


def _remove(path: Path) -> None:
    with suppress(OSError):
        remove: Callable[[Path], None] = shutil.rmtree if path.is_dir() and not path.is_symlink() else os.unlink
        remove(path)
