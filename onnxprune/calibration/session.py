"""onnxruntime sessions of models in memory, quiet, on the CPU."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from onnxprune.errors import ModelError
from onnxprune.graph.load import first_line
from onnxprune.graph.model import Model, to_proto

# A protobuf message ends at 2 GiB; what comes near goes through a folder with external data.
INLINE_LIMIT = 1_800_000_000


def open_session(
    model: Model, taps: Sequence[str] = (), *, threads: int = 0, optimise: bool = True, spin: bool = False
) -> Any:
    """An `onnxruntime.InferenceSession` on the model with further tensors as outputs.

    Args:
        model: the model; not changed.
        taps: tensors to add to the outputs.
        threads: threads inside an operator; 0 takes all cores.
        optimise: whether onnxruntime may rewrite the graph.
        spin: whether idle threads wait busily (faster for one session alone, slower where sessions share the cores).

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = to_proto(model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
    with runtime_errors(f"{model.name}: onnxruntime cannot load the model"):
        if model.stored_bytes <= INLINE_LIMIT:
            return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
            del proto
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Turn onnxruntime's errors into a ModelError that begins with `what`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    known = tuple(v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))
    try:
        yield
    except (*known, RuntimeError, ValueError) as error:
        raise ModelError(f"{what}: {first_line(error)}") from error
