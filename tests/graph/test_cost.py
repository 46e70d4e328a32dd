"""Costs against numbers worked out by hand."""

import numpy as np
import pytest
from oracle import analysed

from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.costs import count_costs

CONV = """g (float[N,3,9,9] x) => (float[N,4,A,B] y) {{
    h = Conv <pads = [1, 1, 1, 1]> (x, w1)
    m = {middle} (h, w2)
    y = Conv (m, w3) }}"""


def counts(analysis: Analysis) -> dict[str, int]:
    """Multiply-adds by node."""
    none = analysis.none_removed()
    return {operation.node: analysis.macs(operation, none) for operation in analysis.operations}


@pytest.mark.parametrize(
    ("middle", "w2", "out", "macs"),
    [
        ("Conv <pads = [1, 1, 1, 1]>", (6, 8, 3, 3), 6, 6 * 8 * 9 * 81),
        ("Conv <strides = [2, 2]>", (6, 8, 3, 3), 6, 6 * 8 * 9 * 16),
        ("Conv <group = 2>", (6, 4, 3, 3), 6, 6 * 4 * 9 * 49),
        ("Conv <group = 8>", (16, 1, 3, 3), 16, 16 * 9 * 49),
        ("ConvTranspose <strides = [2, 2]>", (8, 6, 2, 2), 6, 8 * 6 * 4 * 81),
        ("ConvTranspose <strides = [2, 2], group = 2>", (8, 3, 2, 2), 6, 8 * 3 * 4 * 81),
    ],
)
def test_convolutions(middle: str, w2: tuple[int, ...], out: int, macs: int) -> None:
    model = example(CONV.format(middle=middle), {"w1": (8, 3, 3, 3), "w2": w2, "w3": (4, out, 1, 1)})
    analysis = analysed(model)
    layers = {layer.node: layer for layer in analysis.layers}
    counted = counts(analysis)
    assert counted["m"] == macs
    assert counted["h"] == 8 * 3 * 9 * 81
    assert layers["m"].transposed == middle.startswith("ConvTranspose")
    assert (layers["m"].in_axis, layers["m"].out_axis) == ((0, 1) if layers["m"].transposed else (1, 0))
    assert analysis.costs() == count_costs(analysed(model).model)


def test_dense_layers_count_one_row_of_the_batch() -> None:
    model = example(
        """g (float[N,6] x, float[N,5,6] s, float[6,5] t) => (float[N,3] y, float[N,5,3] z, float[3,5] u) {
        h = Gemm <transB = 1> (x, w1, b1)
        y = Gemm (h, w2)
        i = MatMul (s, w3)
        z = MatMul (i, w2)
        k = MatMul (w4, t)
        u = MatMul (w5, k) }""",
        {"w1": (8, 6), "b1": (8,), "w2": (8, 3), "w3": (6, 8), "w4": (7, 6), "w5": (3, 7)},
    )
    a = analysed(model)
    assert counts(a) == {
        "h": 8 * 6,
        "y": 8 * 3,
        "i": 5 * 6 * 8,
        "z": 5 * 8 * 3,
        "k": 7 * 6 * 5,
        "u": 3 * 7 * 5,
    }
    # Biases are parameters, but no multiply-adds.
    assert a.costs().params == 8 * 6 + 8 + 8 * 3 + 6 * 8 + 7 * 6 + 3 * 7
    assert a.costs().bytes == 4 * a.costs().params


def test_costs_after_removal() -> None:
    a = analysed(
        example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv (x, w1, b1)
            f = Flatten (h)
            y = Gemm (f, w2) }""",
            {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (128, 4)},
        )
    )
    removed = a.none_removed()
    removed[a.groups[0].units[np.array([0, 3, 5])]] = True
    costs = a.costs(removed)
    assert (costs.params, costs.macs) == (5 * 27 + 5 + 80 * 4, 5 * 27 * 16 + 80 * 4)
    assert a.kept(removed) == (5,)
