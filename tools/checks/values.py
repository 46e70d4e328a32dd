"""Every tensor's value in one run of a model in onnxruntime, without its optimisers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

Feeds = Mapping[str, np.ndarray]
ORT_ERRORS: tuple[type[Exception], ...] = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.RuntimeException,
)


def session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """A session on one thread that runs the graph as it stands."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def outputs(model: onnx.ModelProto | Path, feeds: Feeds) -> list[np.ndarray]:
    """The model's outputs."""
    return [np.asarray(value) for value in session(model).run(None, dict(feeds))]


def values(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Inputs, initializers and what every node makes, by name."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | dict(feeds)
    known = {value.name for value in model.graph.output}
    for node in model.graph.node:
        fresh = [name for name in node.output if name and name not in known]
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fresh)
    names = [value.name for value in tapped.graph.output]
    return held | dict(zip(names, map(np.asarray, session(tapped).run(None, dict(feeds))), strict=True))


def constants(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that depend on nothing but initializers."""
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
    return known


def parameters(model: onnx.ModelProto) -> int:
    """Elements of the floating-point weights: initializers and Constant nodes."""
    tensors = list(model.graph.initializer)
    tensors += [
        a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"
    ]
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type in kinds)
