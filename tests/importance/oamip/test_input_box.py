"""The box around an image, cut to the range of the calibration rows' values."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import EPS
from onnx import numpy_helper
from test_scorer import context, report

from onnxprune.calibration.dataset import Dataset
from onnxprune.config import OamipConfig
from onnxprune.graph.load import load
from onnxprune.importance.oamip.affine import Builder
from onnxprune.importance.oamip.compile import compile_network, score_points
from onnxprune.importance.oamip.gate_rows import GateRows
from onnxprune.importance.oamip.images import input_limits
from onnxprune.importance.oamip.propagate import ScoreColumns, propagate
from onnxprune.importance.oamip.scorer import score
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse

SMALL = "g (float[N,5] x) => (float[N,3] y) { a = Gemm (x, w1, b1) h = Relu (a) y = Gemm (h, w2) }"
ON = {"b1": np.full(4, 9, np.float32)}  # every unit is on
BESIDE = """g (float[N,2,5,5] x) => (float[N,3] y) { a = Conv <pads = [1, 1, 1, 1]> (x, w1) h = Relu (a)
    t = Concat <axis = 1> (h, x) c = Conv (t, w2) k = Relu (c) f = Flatten (k) y = Gemm (f, w3) }"""
BLACK, WHITE = -0.5, 2.0
IMAGE = np.array([[BLACK, 0.3, WHITE, BLACK, 1.1]], np.float32)


def small() -> tuple[Analysis, np.ndarray]:
    """The analysis of a network, and its first weights."""
    proto = example(SMALL, {"w1": (5, 4), "w2": (4, 3)}, ON)
    weight = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "w1")
    return analyse(load(proto), {"x": (1, 5)}), weight.astype(np.float64)


def ends(weight: np.ndarray, epsilon: float, *, clamped: bool) -> tuple[np.ndarray, np.ndarray]:
    """How far a unit's bounds are from its value, below and above, counted pixel by pixel."""
    below, above = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for pixel, row in zip(IMAGE[0], weight, strict=True):
        down = 0.0 if clamped and pixel == np.float32(BLACK) else epsilon
        up = 0.0 if clamped and pixel == np.float32(WHITE) else epsilon
        below += np.where(row > 0, row * down, -row * up)
        above += np.where(row > 0, row * up, -row * down)
    return below, above


@pytest.mark.parametrize("clamped", [False, True])
def test_bounds_move_by_the_part_that_is_cut_off(clamped: bool) -> None:
    analysis, weight = small()
    limits = {"x": (BLACK, WHITE)} if clamped else {}
    network = compile_network(analysis, {}, ["a"])
    columns = ScoreColumns(np.full(analysis.units, -1), np.ones(analysis.units))
    found, _ = propagate(network, {"x": IMAGE}, columns, replace(EPS, epsilon=0.1, limits=limits), Builder())
    below, above = ends(weight, 0.1, clamped=clamped)
    np.testing.assert_allclose(found.constant - found.lower, below, atol=1e-12)
    np.testing.assert_allclose(found.upper - found.constant, above, atol=1e-12)


@pytest.mark.parametrize("clamped", [False, True])
def test_rows_of_gates_have_the_same_box(clamped: bool) -> None:
    """A unit that is on stays on: `a - (1 - s) U >= 0`."""
    analysis, weight = small()
    limits = {"x": (BLACK, WHITE)} if clamped else {}
    network = compile_network(analysis, score_points(analysis), ["y"])
    gates = GateRows(network, [{"x": IMAGE}], analysis.units, 0.1, limits)
    value = IMAGE[0].astype(np.float64) @ weight + 9
    _, above = ends(weight, 0.1, clamped=clamped)
    np.testing.assert_allclose(gates.least[analysis.groups[0].units], above / (value + above), rtol=1e-6)


def test_the_range_is_that_of_all_rows_of_an_input() -> None:
    dark, light = np.zeros((100, 2, 3), np.float32), np.ones((100, 4), np.int64)
    dark[99, 1, 2], dark[3, 0, 0], light[70, 0] = -7.0, 2.5, 6
    assert input_limits(Dataset({"a": dark, "b": light}, None, "rows", np.arange(100))) == {
        "a": (-7.0, 2.5),
        "b": (1.0, 6.0),
    }
    assert input_limits(Dataset({"a": dark}, None, "rows", np.arange(99))) == {"a": (0.0, 2.5)}


def beside() -> tuple[onnx.ModelProto, np.ndarray]:
    """A network whose second layer reads the input too, and images of which many pixels are black or white."""
    proto = example(BESIDE, {"w1": (4, 2, 3, 3), "w2": (4, 6, 3, 3), "w3": (36, 3)})
    x = np.random.default_rng(2).standard_normal((30, 2, 5, 5)).clip(-0.5, 0.5)
    return proto, x.astype(np.float32)


@pytest.mark.parametrize(
    "form",
    [{"form": "joint"}, {"form": "affine", "images": "3"}, {"form": "decoupled", "cut": 2}],
    ids=lambda form: form["form"],
)
def test_every_form_takes_the_box(form: dict) -> None:
    """A wide box that is cut is another program; a box of the default width is nearly the same one."""
    proto, x = beside()

    def objective(box: str, epsilon: float) -> float:
        config = OamipConfig(box=box, epsilon=epsilon, **form)
        return float(report(score(context(proto, x, np.arange(30) % 3, config)))["objective"])

    assert objective("clamped", 1e-5) == pytest.approx(objective("free", 1e-5), abs=2e-3)
    wide = 1e-4 if form["form"] == "affine" else 3e-3  # which leaves rows out where a gate is open
    assert objective("clamped", wide) != pytest.approx(objective("free", wide), abs=1e-5)
