"""The values that scorers give in convolutions, behind Pad, at a fixed batch, and where units go without loss."""

from dataclasses import replace

import numpy as np
import pytest
from test_values import check, network, scored

from onnxprune.core.engine import RunOptions
from onnxprune.core.execution import SerialExecutor
from onnxprune.graph.load import load
from onnxprune.importance import scorer_row
from onnxprune.importance.base import ScoreContext
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse

# Two channels: 3 and 4 make the first, 0 and 1 the second, wherever its weight has the axis of what it makes.
KINDS = {
    "Conv": ("h = Conv (x, w1)", [[[[3, 4]]], [[[0, 1]]]]),
    "ConvTranspose": ("h = ConvTranspose (x, w1)", [[[[3, 4]], [[0, 1]]]]),
    "two filters of one channel": ("h = Conv (x, w1)", [[[[3], [4]]], [[[0], [1]]]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_magnitude_of_a_convolution(kind: str) -> None:
    node, w1 = KINDS[kind]
    text = f"g (float[N,1,4,4] x) => (float[N,1,A,B] y) {{ {node} y = Conv (h, w2) }}"
    proto = network(text, w1=w1, w2=np.ones((1, 2, 1, 1)))
    check(scored(proto, "magnitude")["h"], [25, 1])
    check(scored(proto, "magnitude-l1")["h"], [7, 1], power=1)


def test_a_depthwise_convolution_makes_its_channels_too() -> None:
    text = """g (float[N,1,4,4] x) => (float[N,1,A,B] y) {
        h = Conv (x, w1)
        d = Conv <group = 2> (h, w2)
        y = Conv (d, w3) }"""
    proto = network(text, w1=[[[[1]]], [[[2]]]], w2=[[[[3, 4]]], [[[0, 1]]]], w3=np.ones((1, 2, 1, 1)))
    check(scored(proto, "magnitude")["h"], [1 + 25, 4 + 1])


def test_what_no_product_makes_counts_by_what_reads_it() -> None:
    """The units of a Pad have the weights 3 and -1 behind them; those of the layer before it their own."""
    proto = example(
        """g (float[N,2] x) => (float[N,1] y) {
        h = Gemm (x, w1)
        p = Pad (h, pads)
        y = Gemm (p, w2) }""",
        constants={
            "w1": np.float32([[1, 2], [0, 2]]),
            "pads": np.array([0, 0, 0, 2]),
            "w2": np.float32([[5], [6], [3], [-1]]),
        },
    )
    found = scored(proto, "magnitude")
    check(found["h"], [1, 8])
    check(found["p"], [9, 1])


def test_activation_at_a_fixed_batch() -> None:
    """Rows of a model that takes one at a time weigh alike; its axes count from behind."""
    text = "g (float[1,2] x) => (float[1,1] y) { h = Gemm (x, w1) y = Gemm (h, w2) }"
    proto = network(text, w1=[[1, 0], [0, 2]], w2=[[1], [3]])
    x = np.float32([[1, 0], [3, 1], [0, 2]])
    check(scored(proto, "activation", x=x)["h"], [10 / 3, 4 * 5 / 3 * 9])


def test_what_goes_without_loss_counts_for_nothing() -> None:
    """Of the energies 25, 1 and 4 the first is nobody's."""
    text = "g (float[N,2] x) => (float[N,1] y) { h = Gemm (x, w1) r = Relu (h) y = Gemm (r, w2) }"
    analysis = analyse(load(network(text, w1=[[3, 1, 0], [4, 0, 2]], w2=[[1], [2], [10]])))
    (group,) = analysis.groups
    free = analysis.none_removed()
    free[group.units[0]] = True
    given = ScoreContext(analysis, None, RunOptions(threads=1), SerialExecutor())
    for importance, energy, power in (("magnitude", [0, 1, 4], 2), ("magnitude-l1", [0, 1, 2], 1)):
        (found,) = scorer_row(importance).load()(replace(given, free=free)).groups
        check(found, energy, power)


def test_reconstruction_of_a_convolution() -> None:
    """Positions are rows: twenty images of six positions, each of which has one channel on, with either sign."""
    text = "g (float[N,3,1,6] x) => (float[N,2,1,6] y) { h = Conv (x, w1) y = Conv (h, w2) }"
    w2 = np.float32([[1, 0, 0.5], [1, 3, 0]]).reshape(2, 3, 1, 1)
    image = np.concatenate([np.eye(3), -np.eye(3)], axis=1).reshape(3, 1, 6)
    x = np.tile(image.astype(np.float32), (20, 1, 1, 1))
    found = scored(network(text, w1=np.eye(3).reshape(3, 3, 1, 1), w2=w2), "reconstruction", x=x)["h"]
    assert found.order.tolist() == [2, 0, 1]
    errors = np.cumsum([0.25, 2, 9])
    np.testing.assert_allclose(found.scores[found.order], np.sqrt(errors / errors[-1]), rtol=1e-3)
