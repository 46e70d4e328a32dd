"""Quantised activations, and casts, change nothing of what outputs are taken for; quantised weights are parameters."""

import numpy as np
import pytest

from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.costs import count_costs
from onnxprune.structure.coupling import analyse

STEPS = {"s": np.array(1 / 64, np.float32), "z": np.array(-100, np.int8)}


def rounded(source: str, result: str) -> str:
    return f"{result}_codes = QuantizeLinear ({source}, s, z) {result} = DequantizeLinear ({result}_codes, s, z)"


def passed(source: str, result: str) -> str:
    return f"{result} = Identity ({source})"


def parts(text: str, weights: dict[str, tuple[int, ...]]):
    return read_meaning(analyse(load(example(text, weights, STEPS)))).parts


@pytest.mark.parametrize("end", ["{} y = Identity (r)", "{} y = Cast <to = 10> (r)", "{} y = Softmax (r)"])
def test_quantised_class_scores_are_class_scores(end: str) -> None:
    """Logits were "quantities" once onnxruntime had quantised the file: a QuantizeLinear stood before the output."""
    kind = "float16" if "Cast" in end else "float"
    text = f"g (float[N,5] x) => ({kind}[N,3] y) {{{{ h = Gemm (x, w, b) {end} }}}}"
    found = [parts(text.format(made("h", "r")), {"w": (5, 3), "b": (3,)}) for made in (rounded, passed)]
    assert found[0] == found[1]
    assert [part.kind for part in found[0]] == ["classes"]


def test_quantised_boxes_and_scores_are_told_apart() -> None:
    text = """g (float[N,7,5] x) => (float[N,7,6] y) {{
        a = MatMul (x, v) {} l = MatMul (x, w) p = Sigmoid (l) {} j = Concat <axis = 2> (b, q) {} }}"""
    found = [
        parts(text.format(made("a", "b"), made("p", "q"), made("j", "y")), {"v": (5, 4), "w": (5, 2)})
        for made in (rounded, passed)
    ]
    assert found[0] == found[1]
    assert [part.kind for part in found[0]] == ["quantities", "probabilities"]


def test_quantised_weights_are_parameters() -> None:
    """A file in int8 was said to have 3.5 % of the original's parameters: its scales were all that counted."""
    constants = {"c": np.ones((5, 3), np.int8), "s": np.float32(0.1) * np.ones(3, np.float32), "i": np.array([0])}
    text = """g (float[N,5] x) => (float[N,3] y) {
        w = DequantizeLinear <axis = 1> (c, s) h = MatMul (x, w) y = Unsqueeze (h, i) }"""
    costs = count_costs(load(example(text.replace("[N,3]", "[1,N,3]"), None, constants)))
    assert (costs.params, costs.bytes) == (5 * 3 + 3, 5 * 3 + 4 * 3)
