"""onnxruntime sessions of models in memory, quiet, on the CPU."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from onnxprune.core.errors import ModelError
from onnxprune.core.files import temporary_folder
from onnxprune.core.text import first_line
from onnxprune.graph.model import Model, to_proto
from onnxprune.graph.write import write

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
    """An `onnxruntime.InferenceSession` on the model with further tensors as outputs.

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
    import onnxruntime as ort

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
    tapped = _with_outputs(model, taps) if taps else model
    with runtime_errors(f"{model.name}: onnxruntime cannot load the model"):
        if model.stored_bytes <= INLINE_LIMIT:
            data = to_proto(tapped).SerializeToString()
            return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        with temporary_folder() as folder:
            path = folder / "model.onnx"
            write(replace(tapped, external=True), path)
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _with_outputs(model: Model, names: Sequence[str]) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    # onnxruntime infers the types itself.
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return replace(model, proto=proto)


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Turn onnxruntime's errors into a ModelError that begins with `what`."""
    try:
        yield
    except _raised() as error:
        raise ModelError(f"{what}: {_PREFIX.sub('', first_line(error))}") from error


@cache
def _raised() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: exceptions of its own without a common base, and two of Python's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)
