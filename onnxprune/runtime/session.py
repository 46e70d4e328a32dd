"""Opens onnxruntime sessions, without log output."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.core.engine import ALL_CORES, Engine, Provider
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.files import temporary_folder
from onnxprune.core.text import first_line
from onnxprune.graph.lean import without_weights
from onnxprune.graph.model import Model
from onnxprune.graph.write import write
from onnxprune.runtime.library import onnxruntime

# A protobuf message ends at 2 GiB; larger models go through a folder with external data.
INLINE_LIMIT = 1_800_000_000

_SUFFIX = "ExecutionProvider"
_CPU = "CPU" + _SUFFIX
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_BEYOND = "out of data bounds"


def open_session(
    model: Model,
    taps: Sequence[str] = (),
    *,
    engine: Engine = ALL_CORES,
    optimise: bool = True,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> Any:
    """Open an `onnxruntime.InferenceSession` on a model, with further tensors as outputs.

    Args:
        model: the model; not changed.
        taps: tensors to add to the outputs.
        engine: threads and execution provider.
        optimise: whether onnxruntime may rewrite the graph.
        entries: configuration entries of the session. By default idle threads do not spin: sessions share the cores.
        profile: what the name of the profiler's file begins with; None leaves the profiler off.

    Raises:
        InputError: the installed onnxruntime does not have the provider.
        ModelError: onnxruntime cannot load the model.
    """
    load_it = partial(load_session, name=model.name, engine=engine, optimise=optimise, entries=entries, profile=profile)
    proto, weights = without_weights(model, taps)
    if model.stored_bytes - sum(array.nbytes for array in weights.values()) <= INLINE_LIMIT:
        _add_outputs(proto, taps)
        return load_it(proto.SerializeToString(), weights=weights)
    whole = onnx.ModelProto()
    whole.CopyFrom(model.proto)
    _add_outputs(whole, taps)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        write(replace(model, proto=whole, external=True), path)
        return load_it(path)


def load_session(
    source: Path | bytes,
    name: str,
    *,
    engine: Engine = ALL_CORES,
    optimise: bool = True,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
    what: str = "the model",
    weights: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """Open an `onnxruntime.InferenceSession` on a file or on a protobuf's bytes; see `open_session`.

    Args:
        source: the file or the bytes.
        name: what messages begin with.
        engine: threads and execution provider.
        optimise: whether onnxruntime may rewrite the graph.
        entries: configuration entries of the session; by default idle threads do not spin.
        profile: what the name of the profiler's file begins with; None leaves the profiler off.
        what: what messages call the model.
        weights: contiguous arrays of initializers that the protobuf refers to only; neither copied nor changed.

    Raises:
        InputError: the installed onnxruntime does not have the provider.
        ModelError: onnxruntime cannot load it, or the provider does not start.
    """
    ort = onnxruntime()
    providers = session_providers(engine.provider)
    first, _ = providers[0]
    options = ort.SessionOptions()
    options.intra_op_num_threads = engine.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in (entries or {"session.intra_op.allow_spinning": "0"}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (weights or {}).items()}
    options.add_external_initializers(list(values), list(values.values()))
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _with_advice(source), runtime_errors(f"{name}: onnxruntime cannot load {what}"):
        given = str(source) if isinstance(source, Path) else source
        # Without `enable_fallback=0` it prints on stdout, and goes on with the CPU, where a provider fails.
        session = ort.InferenceSession(given, options, providers=providers, enable_fallback=0)
    session.weights = values  # they hold the arrays, whose memory the session reads as long as it lives
    if first not in session.get_providers():  # its libraries are missing, and onnxruntime went on without it
        raise ModelError(f"{name}: onnxruntime cannot start {first}; install what it needs, or use another --provider")
    return session


def session_providers(provider: Provider) -> list[tuple[str, dict[str, str]]]:
    """What a session is opened with: the provider with its options, and the CPU's behind it.

    Raises:
        InputError: the installed onnxruntime does not have it.
    """
    wanted = (installed_name(provider), dict(provider.options))
    return [wanted] if provider.is_cpu else [wanted, (_CPU, {})]


def installed_name(provider: Provider) -> str:
    """The name by which the installed onnxruntime knows a provider.

    Raises:
        InputError: it does not have it; the message says which it has.
    """
    if provider.is_cpu:
        return _CPU
    ort = onnxruntime()
    installed: list[str] = ort.get_available_providers()
    for name in installed:
        if name.removesuffix(_SUFFIX).lower() == provider.name:
            return name
    has = ", ".join(name.removesuffix(_SUFFIX) for name in installed)
    raise InputError(
        f"provider {provider.name!r} is not in the installed onnxruntime {ort.__version__}, which has {has}; "
        "install the build of onnxruntime that brings it"
    )


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


def _add_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    # onnxruntime infers the types itself.
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Context that turns onnxruntime's errors into a `ModelError` that begins with `what`."""
    try:
        yield
    except _raised() as error:
        told = _PREFIX.sub("", first_line(error))
        told += "; an integer among the inputs has no place in the table that this node reads" * (_BEYOND in told)
        raise ModelError(f"{what}: {told}") from error


@contextmanager
def _with_advice(source: Path | bytes) -> Iterator[None]:
    """Context that adds what the user can do to the error of a model that cannot be loaded."""
    try:
        yield
    except ModelError as error:
        given = (
            onnx.load(source, load_external_data=False) if isinstance(source, Path) else onnx.load_from_string(source)
        )
        if all(tensor.data_type != onnx.TensorProto.BFLOAT16 for tensor in given.graph.initializer):
            raise
        advice = "it has few kernels for bfloat16: prune the model in float32, and convert the result"
        raise ModelError(f"{str(error).rstrip('.')}; {advice}") from error


@cache
def _raised() -> tuple[type[Exception], ...]:
    """The exception types that onnxruntime raises: its own, which share no base class, and two of Python's."""
    state = onnxruntime().capi.onnxruntime_pybind11_state
    defined = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*defined, RuntimeError, ValueError)
