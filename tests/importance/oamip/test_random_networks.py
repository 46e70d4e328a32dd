"""The paper's program of random small networks, also with integer gates: SCIP against HiGHS, the original inside it."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import EPS, VALID, by_highs, logits_at, program_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.solve import solve
from onnxprune.ops.examples import example

RELAXED = Propagation(replace(VALID.gating, integer=False), epsilon=0.0)
POOLS = {
    "": ("p = Identity (h)", lambda side: side),
    "average": ("p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (h)", lambda side: side // 2),
    "maximum": ("p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)", lambda side: side // 2),
}
MOST_GATES = 24  # integer ones, that HiGHS is given
ACTIVATIONS = ("Relu", "LeakyRelu", "Identity")


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """A network with weights of its own, rows, and their classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(2, 4))
    first, last = draw(st.sampled_from(ACTIVATIONS)), draw(st.sampled_from(ACTIVATIONS))
    width = draw(st.integers(2, 4))
    if draw(st.booleans()):
        inputs, hidden = draw(st.integers(2, 4)), draw(st.integers(1, 4))
        shape: tuple[int, ...] = (inputs,)
        text = f"""g (float[N,{inputs}] x) => (float[N,{classes}] y) {{
            a = Gemm (x, w1, b1) h = {first} (a) c = Gemm (h, w2, b2) k = {last} (c) y = Gemm (k, w3, b3) }}"""
        sizes = {"w1": (inputs, width), "b1": (width,), "w2": (width, hidden), "b2": (hidden,)}
    else:
        channels, side, stride = draw(st.integers(1, 2)), draw(st.integers(4, 5)), draw(st.integers(1, 2))
        kernel, pad = draw(st.sampled_from([(1, 0), (2, 0), (3, 1)]))
        pool, pooled = POOLS[draw(st.sampled_from(sorted(POOLS)))]
        shape = (channels, side, side)
        small = pooled((side + 2 * pad - kernel) // stride + 1)
        hidden = width * small * small
        residual = "e = Conv (p, w2, b2) s = Add (e, p)" if draw(st.booleans()) else "s = Conv (p, w2, b2)"
        text = f"""g (float[N,{channels},{side},{side}] x) => (float[N,{classes}] y) {{
            a = Conv <strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]> (x, w1, b1)
            h = {first} (a) {pool} {residual} k = {last} (s) f = Flatten (k) y = Gemm (f, w3, b3) }}"""
        sizes = {"w1": (width, channels, kernel, kernel), "b1": (width,), "w2": (width, width, 1, 1), "b2": (width,)}
    proto = example(text, sizes | {"w3": (hidden, classes), "b3": (classes,)})
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        scale = float(np.sqrt(2 / max(1, values[0].size))) if values.ndim > 1 else 0.3
        tensor.CopyFrom(numpy_helper.from_array(np.float32(scale * rng.standard_normal(values.shape)), tensor.name))
    images = draw(st.integers(1, 3))
    return proto, rng.standard_normal((images, *shape)).astype(np.float32), rng.integers(0, classes, images)


@pytest.mark.parametrize("how", [EPS, RELAXED, VALID], ids=["eps", "valid", "valid, integer gates"])
@given(drawn=networks(), lambda_=st.sampled_from([0.5, 5.0]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_scip_and_highs_find_the_same_optimum(
    how: Propagation, drawn: tuple[onnx.ModelProto, np.ndarray, np.ndarray], lambda_: float
) -> None:
    built = program_of(*drawn, how, lambda_)
    program = built.program
    assume(program.linear.integer.sum() <= MOST_GATES)
    np.testing.assert_allclose(logits_at(program, program.start), built.logits, rtol=1e-3, atol=1e-4)
    assert program.linear.violation(program.start).max(initial=0.0) < 1e-6
    found = solve(program, "program")
    assert found.status == "optimal"
    assert program.linear.violation(found.x).max(initial=0.0) < 1e-6
    assert found.bound <= found.objective
    gates = found.x[program.linear.integer]
    np.testing.assert_allclose(gates, gates.round(), atol=1e-6)
    exact = by_highs(program)
    assert found.objective == pytest.approx(exact, rel=3e-5, abs=3e-5)
