"""Runs independent tasks: in this process, in several processes, or on a dask cluster.

A task's result does not depend on where it runs: linear algebra inside a task uses one thread (more would sum in
another order), and tasks draw nothing random of their own.
"""

import mmap
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import Lock, Thread
from typing import Any

from onnxprune.core.errors import InputError, OnnxPruneError
from onnxprune.core.files import temporary_folder
from onnxprune.core.plugins import Shipment, for_workers, receive

_DASK = "dask://"
_CONNECT_S = 10
_WORKERS_S = 5
_PAGE = 64  # alignment of stored arrays in bytes


class SerialExecutor(Executor):
    """An executor that runs each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run the task. Its error, if any, is raised by the future's `result`."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (handed on to whoever asks for the result)
            future.set_exception(error)
        return future


class TaskExecutor(Executor):
    """Passes tasks on to another executor; each task uses one thread for linear algebra.

    Args:
        inner: where the tasks run; not shut down.
    """

    def __init__(self, inner: Executor) -> None:
        self.inner = inner

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Submit a task."""
        return self.inner.submit(_alone, for_workers(), fn, *args, **kwargs)


def in_this_process(executor: Executor) -> bool:
    """Whether tasks run in the caller's own thread, and so may use all cores."""
    inner = executor.inner if isinstance(executor, TaskExecutor) else executor
    return isinstance(inner, SerialExecutor)


@contextmanager
def open_executor(spec: str, workers: int = 0, *, large: bool = False) -> Iterator[Executor]:
    """Context that provides an executor.

    Args:
        spec: `serial`, `processes`, `dask://host:port` of a scheduler, or `auto`: local processes where the work is
            large and this is the `onnxprune` command, else this process. (A script without a main guard would be run
            again by every spawned process; it must ask for them.)
        workers: local processes; 0 takes one per core.
        large: whether starting processes pays, for `auto`.

    Raises:
        InputError: the form is unknown, dask is not installed, or no scheduler answers.
        OnnxPruneError: a local worker process died.
    """
    count = workers or os.cpu_count() or 1
    if spec == "auto":
        spec = "processes" if large and count > 1 and _is_command() else "serial"
    if spec == "serial":
        yield SerialExecutor()
    elif spec == "processes":
        try:
            with _processes(count) as pool:
                yield pool
        except BrokenProcessPool as error:
            raise OnnxPruneError(
                "a worker process died, perhaps for want of memory; use fewer --workers, or --executor serial"
            ) from error
    elif spec.startswith(_DASK):
        with _cluster(spec.removeprefix(_DASK)) as pool:
            yield pool
    else:
        raise InputError(f"--executor {spec!r} is unknown; use auto, serial, processes or dask://HOST:PORT")


class _Workers:
    """Worker processes that stay for the tasks that follow; after an error the next tasks get new ones."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pools: dict[int, Executor] = {}

    @contextmanager
    def pool(self, count: int) -> Iterator[Executor]:
        """Context of tasks in so many of them."""
        if count not in self._pools:
            self._pools[count] = self._stack.enter_context(_started(count))
        try:
            yield self._pools[count]
        except BaseException as error:
            self.end(error)
            raise

    def end(self, error: BaseException | None = None) -> None:
        """End all of them; at once where an error is the reason."""
        self._pools.clear()
        with self._stack.pop_all() as stack:
            if error is not None:
                stack.__exit__(type(error), error, error.__traceback__)


_KEPT: ContextVar[_Workers | None] = ContextVar("_KEPT", default=None)


@contextmanager
def workers_kept() -> Iterator[None]:
    """Context in which worker processes, which take most of a second to start, stay from one use to the next."""
    if _KEPT.get() is not None:
        yield
        return
    workers = _Workers()
    token = _KEPT.set(workers)
    try:
        yield
    finally:
        _KEPT.reset(token)
        workers.end()


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Worker processes for the tasks of a block."""
    kept = _KEPT.get()
    with _started(count) if kept is None else kept.pool(count) as pool:
        yield pool


@contextmanager
def _started(count: int) -> Iterator[Executor]:
    """Worker processes that end with the block or with this process, however it ends."""
    context = get_context("spawn")
    held, line = context.Pipe(duplex=False)
    with held, line, ProcessPoolExecutor(count, mp_context=context, initializer=_watch, initargs=(held,)) as pool:
        try:
            yield pool
        except BaseException:
            line.close()  # nobody wants what is still under way
            raise


def _watch(held: Connection) -> None:
    """In a worker: end this process once the parent is gone, and delete what was shared."""

    def wait() -> None:
        held.poll(None)
        for folder in _OPENED:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    signal(SIGINT, SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    Thread(target=wait, daemon=True).start()


_OPENED: set[Path] = set()
"""Folders of what this worker was shared."""


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from dask.config import set as configured
        from distributed import Client
    except ImportError:
        raise InputError("--executor dask://... needs dask (extra distributed): pip install distributed") from None
    try:
        client = Client(f"tcp://{address}", timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--executor dask://{address}: no dask scheduler answers there; start one with `dask scheduler`"
        ) from error
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except (TimeoutError, OSError) as error:
        client.close()
        raise InputError(
            f"--executor dask://{address}: the scheduler there has no workers; start some with `dask worker {address}`"
        ) from error
    large = configured({"distributed.admin.large-graph-warning-threshold": "1TB"})  # arrays travel with tasks
    with client, large, client.get_executor(pure=False) as pool:
        yield pool


def _is_command() -> bool:
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", "") or Path(getattr(main, "__file__", None) or "").stem
    return name in ("onnxprune", "onnxprune.__main__")


@contextmanager
def share(executor: Executor, value: Any) -> Iterator[Any]:
    """Context that sends a value to all workers once. It yields a handle; workers call `shared(handle)`.

    Local processes map arrays from one temporary file; a dask cluster holds a copy on every worker.
    """
    inner = executor.inner if isinstance(executor, TaskExecutor) else executor
    if isinstance(inner, ProcessPoolExecutor):
        with temporary_folder() as folder:
            yield _store(value, folder)
    elif hasattr(inner, "_client"):  # dask's executor
        yield _spread(inner._client, value)
    else:
        yield value


def _spread(client: Any, value: Any) -> Any:
    """A value on all workers of a cluster, as the result of a task.

    Unlike scattered data the scheduler can make it again: its memory manager drops spare copies after seconds, and the
    last one may go with its worker.
    """
    future = client.submit(_same, value, pure=False)
    client.replicate(future)
    return future


def _same(value: Any) -> Any:
    return value


def shared(handle: Any) -> Any:
    """In a worker: the value that `share` sent. All tasks of a process get the same object."""
    return _load(handle) if isinstance(handle, _Stored) else handle


@dataclass(frozen=True, slots=True)
class _Stored:
    """A pickled value in a file, with the place of its arrays: `(offset, bytes)` each."""

    head: Path
    arrays: Path
    places: tuple[tuple[int, int], ...]


def _store(value: Any, folder: Path) -> _Stored:
    buffers: list[pickle.PickleBuffer] = []
    head, arrays = folder / "head", folder / "arrays"
    head.write_bytes(pickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    places = []
    with arrays.open("wb") as file:
        for buffer in buffers:
            file.write(bytes(-file.tell() % _PAGE))
            with buffer.raw() as raw:
                places.append((file.tell(), raw.nbytes))
                file.write(raw)
        file.write(bytes(1))  # an empty file cannot be mapped
    return _Stored(head, arrays, tuple(places))


@lru_cache(maxsize=1)
def _load(stored: _Stored) -> Any:
    _OPENED.add(stored.head.parent)
    with stored.arrays.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    # Our own parent wrote the file, into a folder that only this user can enter.
    return pickle.loads(stored.head.read_bytes(), buffers=[mapped[at : at + size] for at, size in stored.places])


class _OneThread:
    """Limits linear algebra to one thread while any block or task of this process is within."""

    def __init__(self) -> None:
        self._lock, self._running, self._limit = Lock(), 0, None

    def __enter__(self) -> None:
        import scipy.linalg.blas  # noqa: F401 (a library of its own; limits concern what is loaded)
        from threadpoolctl import threadpool_limits

        with self._lock:
            self._running += 1
            if self._running == 1:
                self._limit = threadpool_limits(1, user_api="blas")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running and self._limit is not None:
                self._limit.restore_original_limits()


ONE_THREAD = _OneThread()
"""Context of small matrix products: threads that wait for each other cost more than they save."""


def _alone(shipment: Shipment, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    receive(shipment)
    with ONE_THREAD:
        return fn(*args, **kwargs)
