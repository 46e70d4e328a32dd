"""Opens onnxruntime sessions, without log output, on the CPU."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.core.files import temporary_folder
from onnxprune.core.text import first_line
from onnxprune.graph.model import Model, to_proto
from onnxprune.graph.write import write
from onnxprune.runtime.library import onnxruntime

# A protobuf message ends at 2 GiB; larger models go through a folder with external data.
INLINE_LIMIT = 1_800_000_000

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def open_session(
    model: Model,
    taps: Sequence[str] = (),
    *,
    threads: int = 0,
    optimise: bool = True,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> Any:
    """Open an `onnxruntime.InferenceSession` on a model, with further tensors as outputs.

    Args:
        model: the model; not changed.
        taps: tensors to add to the outputs.
        threads: threads inside an operator; 0 takes all cores.
        optimise: whether onnxruntime may rewrite the graph.
        entries: configuration entries of the session. By default idle threads do not spin: sessions share the cores.
        profile: what the name of the profiler's file begins with; None leaves the profiler off.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    tapped = _with_outputs(model, taps) if taps else model
    if model.stored_bytes <= INLINE_LIMIT:
        data = to_proto(tapped).SerializeToString()
        return load_session(data, model.name, threads=threads, optimise=optimise, entries=entries, profile=profile)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        write(replace(tapped, external=True), path)
        return load_session(path, model.name, threads=threads, optimise=optimise, entries=entries, profile=profile)


def load_session(
    source: Path | bytes,
    name: str,
    *,
    threads: int = 0,
    optimise: bool = True,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
    what: str = "the model",
) -> Any:
    """Open an `onnxruntime.InferenceSession` on a file or on a protobuf's bytes; see `open_session`.

    Args:
        source: the file or the bytes.
        name: what messages begin with.
        threads: threads inside an operator; 0 takes all cores.
        optimise: whether onnxruntime may rewrite the graph.
        entries: configuration entries of the session; by default idle threads do not spin.
        profile: what the name of the profiler's file begins with; None leaves the profiler off.
        what: what messages call the model.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in (entries or {"session.intra_op.allow_spinning": "0"}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with runtime_errors(f"{name}: onnxruntime cannot load {what}"):
        given = str(source) if isinstance(source, Path) else source
        return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, feed: Mapping[str, np.ndarray], name: str, what: str = "the model") -> dict[str, Any]:
    """Run a session once; returns all tensor outputs by name.

    Args:
        session: an open session.
        feed: an array for each input.
        name: what messages begin with.
        what: what messages call the model.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    names = [output.name for output in session.get_outputs()]
    with runtime_errors(f"{name}: onnxruntime cannot run {what}"):
        results = session.run(names, dict(feed))
    return {n: np.asarray(value) for n, value in zip(names, results, strict=True) if isinstance(value, np.ndarray)}


def _with_outputs(model: Model, names: Sequence[str]) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    # onnxruntime infers the types itself.
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return replace(model, proto=proto)


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Context that turns onnxruntime's errors into a `ModelError` that begins with `what`."""
    try:
        yield
    except _raised() as error:
        raise ModelError(f"{what}: {_PREFIX.sub('', first_line(error))}") from error


@cache
def _raised() -> tuple[type[Exception], ...]:
    """The exception types that onnxruntime raises: its own, which share no base class, and two of Python's."""
    state = onnxruntime().capi.onnxruntime_pybind11_state
    defined = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*defined, RuntimeError, ValueError)
