"""A small residual network, and kernel times that are computed instead of measured."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.core.engine import Engine
from onnxprune.core.results import TimeReport
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.structure.coupling import analyse

STEP = 8


def residual_network(width: int = 16, blocks: int = 3) -> onnx.ModelProto:
    """A stem, residual blocks of two convolutions, and a linear classifier."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def layer(name: str, kind: str, source: str, shape: tuple[int, ...]) -> str:
        fan_in = int(np.prod(shape[1:]))
        for suffix, size in (("w", shape), ("b", shape[:1])):
            value = (rng.standard_normal(size) / np.sqrt(fan_in)).astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(value, f"{name}.{suffix}"))
        attributes = {"pads": [1, 1, 1, 1]} if kind == "Conv" else {"transB": 1}
        nodes.append(helper.make_node(kind, [source, f"{name}.w", f"{name}.b"], [name], name=name, **attributes))
        return name

    def node(name: str, kind: str, *sources: str) -> str:
        nodes.append(helper.make_node(kind, list(sources), [name], name=name))
        return name

    stream = node("stem.relu", "Relu", layer("stem", "Conv", "x", (width, 3, 3, 3)))
    for n in range(blocks):
        inner = node(f"a{n}.relu", "Relu", layer(f"a{n}", "Conv", stream, (width, width, 3, 3)))
        added = node(f"add{n}", "Add", layer(f"b{n}", "Conv", inner, (width, width, 3, 3)), stream)
        stream = node(f"add{n}.relu", "Relu", added)
    flat = node("flat", "Flatten", node("pool", "GlobalAveragePool", stream))
    layer("fc", "Gemm", flat, (10, width))
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("fc", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def network() -> Model:
    return load(residual_network())


def pretended_time(model: Model) -> float:
    """Microseconds as blocked kernels would take: each width counts in full blocks."""
    analysis = analyse(model)
    blocked = 0.0
    for layer in analysis.layers:
        if not layer.node.startswith("stub"):
            shape = model.constants[layer.weight].shape
            blocked += np.prod([-(-s // STEP) * STEP if axis < 2 else s for axis, s in enumerate(shape)])
    return 1.0 + blocked / 1000


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the measurement of kernels; holds how many were asked for, call by call. Every round is slower."""
    calls: list[int] = []

    def times(models: Sequence[Model], *, engine: Engine) -> np.ndarray:
        calls.append(len(models))
        return np.outer([1.0, 2.0, 3.0], [pretended_time(model) for model in models]) / 2

    monkeypatch.setattr("onnxprune.latency.times.round_times", times)
    return calls


@pytest.fixture(scope="session")
def macs_clock() -> Callable[[Model], float]:
    """Milliseconds of a whole model whose time is that of the pretended kernels, and a constant."""
    return lambda model: 2.0 + pretended_time(model) / 10


@pytest.fixture(scope="session")
def kernel_clock() -> Callable[[Model], float]:
    """Microseconds that a pretended kernel takes."""
    return pretended_time


@pytest.fixture
def pretend_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Model], float]], None]:
    """Replaces the measurement of whole models."""

    def use(clock: Callable[[Model], float]) -> None:
        monkeypatch.setattr(
            "onnxprune.latency.target.beside",
            lambda original, other, batch, engine, known=None: (clock(original), clock(other) / clock(original)),
        )

        def pair(original: Model, other: Model, *, batch: int, **how: object) -> TimeReport:
            before, after = clock(original), clock(other)
            return TimeReport(after / before, after / before, after / before, before, after, 20, batch, 1)

        monkeypatch.setattr("onnxprune.runtime.timing.time_pair", pair)

    return use
