"""Every kind of layer in the paper's program: the original network is a feasible point with the model's own logits."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import EPS, VALID, logits_at, program_of

from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.solve import solve
from onnxprune.ops.examples import example


@dataclass(frozen=True)
class Kind:
    """A middle part from `h` (4 channels, 6 x 6, behind a ReLU) to `t`, and the channels and positions that `t` has."""

    body: str
    size: int
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()


KINDS = {
    "strided and padded": Kind(
        "c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (h, w2, b2) t = Relu (c)",
        45,
        (("w2", (5, 4, 3, 3)), ("b2", (5,))),
    ),
    "dilated, in groups": Kind(
        "c = Conv <dilations = [2, 2], group = 2> (h, w2) t = Relu (c)", 24, (("w2", (6, 2, 3, 3)),)
    ),
    "average pooling": Kind("t = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (h)", 36),
    "max pooling": Kind("t = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)", 36),
    "max pooling with overlap": Kind(
        "t = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (h)", 36
    ),
    "global average pooling": Kind("t = GlobalAveragePool (h)", 4),
    "batch normalisation": Kind(
        "c = Conv (h, w2) n = BatchNormalization (c, scale, shift, mean, var) t = Relu (n)",
        125,
        (("w2", (5, 4, 2, 2)), ("scale", (5,)), ("shift", (5,)), ("mean", (5,)), ("var", (5,))),
    ),
    "residual": Kind("c = Conv (h, w2) e = Add (c, h) t = Relu (e)", 144, (("w2", (4, 4, 1, 1)),)),
    "concatenation": Kind("c = Conv (h, w2) k = Relu (c) t = Concat <axis = 1> (k, h)", 252, (("w2", (3, 4, 1, 1)),)),
    "leaky": Kind("c = Conv (h, w2) t = LeakyRelu <alpha = 0.2> (c)", 108, (("w2", (3, 4, 1, 1)),)),
    "clipped": Kind(
        "low = Constant <value_float = 0.0> () high = Constant <value_float = 0.6> () "
        "c = Conv (h, w2) t = Clip (c, low, high)",
        108,
        (("w2", (3, 4, 1, 1)),),
    ),
    "without activation": Kind("t = Conv (h, w2)", 108, (("w2", (3, 4, 1, 1)),)),
}
X = np.random.default_rng(5).standard_normal((2, 2, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("how", [EPS, VALID], ids=["eps", "valid"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_original_network_is_feasible_and_has_the_models_logits(kind: Kind, how: Propagation) -> None:
    proto = example(
        "g (float[N,2,6,6] x) => (float[N,3] y) { a = Conv (x, w1, b1) h = Relu (a) "
        f"{kind.body} f = Flatten (t) y = Gemm (f, w3, b3) }}",
        {"w1": (4, 2, 1, 1), "b1": (4,), "w3": (kind.size, 3), "b3": (3,), **dict(kind.weights)},
    )
    built = program_of(proto, X, np.array([0, 2]), how)
    program = built.program
    assert sum(len(layer) for layer in program.layers) >= 4
    assert program.linear.violation(program.start).max(initial=0.0) < 1e-6
    assert np.all(program.start >= program.linear.column_lower - 1e-9)
    assert np.all(program.start <= program.linear.column_upper + 1e-9)
    np.testing.assert_allclose(logits_at(program, program.start), built.logits, rtol=1e-4, atol=1e-5)
    if how is EPS:
        found = solve(program, "program")
        assert found.status == "optimal"
        assert found.objective <= program.objective(program.start) + 1e-6
        assert program.linear.violation(found.x).max(initial=0.0) < 1e-6
