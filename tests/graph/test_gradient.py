"""Gradients by the handlers' backward rules, held against torch and against finite differences."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from oracle import analysed, random_feed, run
from random_graphs import graphs

from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.load import load
from onnxprune.ops import handler_of, handlers
from onnxprune.ops.base import OpHandler
from onnxprune.ops.examples import example
from onnxprune.runtime.session import open_session
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.gradient import SEED, gradient_models

EXAMPLES = [
    pytest.param(proto, id=f"{type(handler).__name__}-{number}")
    for handler in dict.fromkeys(handlers().values())
    for number, proto in enumerate(handler.examples())
]
# Examples that their handler's rule does not cover: ReduceMax, ReduceL2, InstanceNormalization, Pad of chosen axes.
WITHOUT_RULE = {"Expand-1", "Pad-1", "PerChannelNormalization-0", "Reduce-1", "Reduce-2"}


def is_ruled(proto: onnx.ModelProto) -> bool:
    """Whether every operator's handler has a backward rule of its own."""
    found = (handler_of(f"{node.domain}.{node.op_type}" if node.domain else node.op_type) for node in proto.graph.node)
    return all(type(handler).backward is not OpHandler.backward for handler in found)


def channels_of(a: Analysis) -> dict[str, int]:
    """Inner tensors that carry channels, each with the axis of these."""
    found = {}
    for node in a.graph.nodes:
        for tensor in node.outputs:
            axes = [axis for axis, ids in enumerate(a.labels.get(tensor, ())) if ids is not None and axis > 0]
            floating = a.facts.dtypes.get(tensor) == onnx.TensorProto.FLOAT
            if axes and floating and tensor not in a.graph.outputs and a.value(tensor) is None:
                found[tensor] = axes[0]
    return found


def with_factor(proto: onnx.ModelProto, tensor: str, shape: list[int]) -> onnx.ModelProto:
    """The model in which a tensor is multiplied by an input `factor` as soon as it is made."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    position = next(n for n, node in enumerate(changed.graph.node) if tensor in node.output)
    made = changed.graph.node[position]
    made.output[list(made.output).index(tensor)] = "raw"
    changed.graph.node.insert(position + 1, helper.make_node("Mul", ["raw", "factor"], [tensor]))
    changed.graph.input.append(helper.make_tensor_value_info("factor", onnx.TensorProto.FLOAT, shape))
    return changed


def products(a: Analysis, feed: dict, direction: np.ndarray, wanted: dict[str, int]) -> dict[str, np.ndarray]:
    models = gradient_models(a, a.graph.outputs[0], wanted)
    if not models.outputs:  # the first output does not depend on channels
        return {}
    names = list(models.kept)
    kept = dict(zip(names, open_session(models.forward, engine=ONE_CORE).run(names, feed), strict=True))
    backward = open_session(models.backward(kept), engine=ONE_CORE)
    found = backward.run(list(models.outputs.values()), {**kept, SEED: direction})
    return dict(zip(models.outputs, found, strict=True))


def products_if_ruled(a: Analysis, feed: dict, direction: np.ndarray, wanted: dict) -> dict[str, np.ndarray] | None:
    """The products; None where an operator on the way has no rule."""
    try:
        return products(a, feed, direction, wanted)
    except ModelError as error:
        if "no backward rule" in str(error):
            return None
        raise


@pytest.mark.parametrize("proto", EXAMPLES)
def test_gradients_are_those_of_torch(proto: onnx.ModelProto, request: pytest.FixtureRequest) -> None:
    torch = pytest.importorskip("torch", reason="torch is what gradients are held against")
    from onnxprune.torchnet.network import Network

    a = analysed(proto)
    rng = np.random.default_rng(0)
    feed = random_feed(a, rng)
    output = a.graph.outputs[0]
    direction = rng.standard_normal(run(a.model, feed)[0].shape).astype(np.float32)
    wanted = channels_of(a)
    found = products_if_ruled(a, feed, direction, wanted)
    if is_ruled(proto):
        assert (found is None) == (request.node.callspec.id in WITHOUT_RULE)
    for tensor, values in (found or {}).items():
        rank, axis = len(a.shape(tensor)), wanted[tensor]
        shape = [values.shape[1] if n == axis else 1 for n in range(rank)]
        factor = torch.ones(shape, requires_grad=True)
        network = Network(load(with_factor(proto, tensor, shape)), [output])
        result = network({**network.inputs(feed), "factor": factor})[output]
        (gradient,) = torch.autograd.grad((result * torch.from_numpy(direction)).sum(), factor)
        wanted_values = gradient.reshape(-1).numpy()
        scale = max(1e-3, float(np.abs(wanted_values).max()))
        assert np.abs(values.sum(0) - wanted_values).max() <= 2e-3 * scale


def test_what_has_no_rule_is_named() -> None:
    proto = example(
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul (x, w1) s, i = TopK (h, k) y = MatMul (s, w2) }",
        {"w1": (6, 8), "w2": (4, 3)},
        {"k": np.array([4])},
    )
    with pytest.raises(ModelError, match=r"TopK 's' has no backward rule"):
        gradient_models(analysed(proto), "y", {"h": 1})


# Always the same graphs: two kinks within one step, which chance finds now and then, have no slope to compare with.
@settings(derandomize=True)
@given(graphs(), st.integers(0, 3))
def test_gradients_are_slopes(proto: onnx.ModelProto, seed: int) -> None:
    """Scaling one channel a little changes the output by the product that the gradient model gives."""
    a = analysed(proto)
    wanted = channels_of(a)
    rng = np.random.default_rng(seed)
    feed = random_feed(a, rng)
    before = run(a.model, feed)[0]
    direction = rng.standard_normal(before.shape).astype(np.float32)
    found = products_if_ruled(a, feed, direction, wanted)
    step = 1e-3
    for tensor, values in (found or {}).items():
        axis, channel = wanted[tensor], int(rng.integers(values.shape[1]))
        shape = [values.shape[1] if n == axis else 1 for n in range(len(a.shape(tensor)))]
        changed = load(with_factor(proto, tensor, shape))
        at = []
        for change in (-step, 0.0, step):
            factor = np.ones(shape, np.float32)
            factor.reshape(-1)[channel] += change
            (result, *_) = run(changed, {**feed, "factor": factor})
            at.append(float((result.astype(np.float64) * direction).sum()))
        # At a kink (equal values in a maximum, say) the slopes of both sides differ, and any between them will do.
        low, high = sorted(((at[1] - at[0]) / step, (at[2] - at[1]) / step))
        scale = float(np.abs(values).sum()) + float(np.abs(before).sum()) + 1e-3
        found_slope = float(values[:, channel].sum())
        assert low - 0.05 * scale <= found_slope <= high + 0.05 * scale
