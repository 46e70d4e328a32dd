"""Operators as steps of the paper's program give what onnxruntime gives."""

from dataclasses import replace

import numpy as np
import pytest
from oracle import analysed

from onnxprune.graph.nodes import Node
from onnxprune.ops import only_now
from onnxprune.ops.dense import Gemm
from onnxprune.ops.examples import example
from onnxprune.ops.traits import LinearMap, Operands
from onnxprune.testing.steps import check_steps

EXPECTED = frozenset(
    {"Abs", "Cast", "Conv", "ConvTranspose", "Div", "Dropout", "Flatten", "Gemm", "GlobalMaxPool", "LeakyRelu", "Mul"}
    | {"Neg", "Pad", "ReduceSum", "Sub", "Sum", "Tile"}
)
MODES = ("nearest", "linear", "cubic")
MORE = """g (float[N,4,6,6] x) => (float[N,3] y) {
    c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w1)
    t = ConvTranspose <auto_pad = "SAME_LOWER", strides = [2, 2]> (c, w2, b2)
    u = ConvTranspose <output_shape = [7, 7]> (t, w3)
    p = Pad <mode = "reflect"> (u, pads)
    i = Mul (i1, p)
    l = LeakyRelu (i)
    a = Abs (l)
    n = Neg (a)
    m = GlobalMaxPool (n)
    f = Flatten (m)
    s = Sub (f, s1)
    d = Div (s, d1)
    z = Sum (d, s, f)
    r = Dropout (z)
    k = Cast <to = 1> (r)
    o = Tile (k, twice)
    e = ReduceSum (o, axes)
    q = Sub (z, e)
    y = Gemm (q, w4) }"""
MORE_WEIGHTS = {
    "w1": (5, 4, 3, 3),
    "w2": (5, 6, 3, 3),
    "b2": (6,),
    "w3": (6, 4, 3, 3),
    "s1": (4,),
    "i1": (4, 1, 1),
    "d1": (1, 4),
    "w4": (4, 3),
}
MORE_NUMBERS = {"pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "twice": np.array([1, 2]), "axes": np.array([1])}


def test_every_operator_of_the_program_gives_what_onnxruntime_gives() -> None:
    """The contract test compares the handlers' own examples; here are forms that these lack."""
    assert check_steps(analysed(example(MORE, MORE_WEIGHTS, MORE_NUMBERS))) == EXPECTED


def test_a_wrong_matrix_is_found() -> None:
    class Doubled(Gemm):
        def matrices(self, node: Node, operands: Operands) -> LinearMap:
            right = super().matrices(node, operands)
            return replace(right, bias=2 * right.bias + 1)

    analysis = analysed(example("g (float[N,3] x) => (float[N,2] y) { y = Gemm (x, w) }", {"w": (3, 2)}))
    assert check_steps(analysis) == {"Gemm"}
    with only_now(Doubled()), pytest.raises(AssertionError, match="Gemm"):
        check_steps(analysis)


def test_interpolation_is_not_taken_for_moved_values() -> None:
    text = """g (float[N,3,4,4] x) => (float[N,3,8,8] y) { y = Resize <mode = "MODE"> (x, , scales) }"""
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    compared = {mode: check_steps(analysed(example(text.replace("MODE", mode), None, scales))) for mode in MODES}
    assert compared == {"nearest": {"Resize"}, "linear": set(), "cubic": set()}
