"""Builds programs for small models."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from onnxprune.calibration.runner import Runner
from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.importance.oamip.compile import compile_network, logits_of, score_points
from onnxprune.importance.oamip.program import OamipProgram, build
from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.relu_constraints import Bounds as GateBounds
from onnxprune.importance.oamip.relu_constraints import Gating
from onnxprune.ops.examples import example
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.coupling import analyse

EPS = Propagation(Gating(GateBounds.EPS))
VALID = Propagation(Gating(GateBounds.VALID, integer=True), epsilon=0.0)

MLP = """g (float[N,5] x) => (float[N,3] y) {
    a = Gemm (x, w1, b1)
    h = Relu (a)
    c = Gemm (h, w2, b2)
    k = Relu (c)
    y = Gemm (k, w3, b3) }"""
MLP_WEIGHTS = {"w1": (5, 4), "b1": (4,), "w2": (4, 3), "b2": (3,), "w3": (3, 3), "b3": (3,)}


@dataclass(frozen=True)
class Built:
    """A program and the model it was built from."""

    program: OamipProgram
    analysis: Analysis
    x: np.ndarray
    logits: np.ndarray


def mlp() -> onnx.ModelProto:
    """Two hidden layers of 4 and 3 units."""
    return example(MLP, MLP_WEIGHTS)


def program_of(
    proto: onnx.ModelProto,
    x: np.ndarray,
    labels: np.ndarray,
    how: Propagation = EPS,
    lambda_: float = 5.0,
    normalisation: str = "after",
) -> Built:
    """The whole network's program on these rows."""
    model = load(proto)
    name = model.proto.graph.input[0].name
    analysis = analyse(model, {name: (1, *x.shape[1:])})
    network = compile_network(analysis, score_points(analysis, normalisation), [logits_of(analysis)])
    layers = [group.units for group in analysis.groups]
    images = [{name: row[None]} for row in x]
    program, _ = build(network, images, labels, layers, np.ones(analysis.units), lambda_, how)
    logits = np.concatenate(
        [Runner(model, engine=ONE_CORE).run_feed({name: row[None]})[analysis.graph.outputs[0]] for row in x]
    )
    return Built(program, analysis, x, logits.reshape(len(x), -1))


def logits_at(program: OamipProgram, x: np.ndarray) -> np.ndarray:
    """Logits of every image at a point of the program."""
    return np.array([o + m @ x for o, m in zip(program.offsets, program.logits, strict=True)])


def with_scores(program: OamipProgram, scores: np.ndarray) -> OamipProgram:
    """The program with all scores fixed."""
    linear = program.linear
    low, high = linear.column_lower.copy(), linear.column_upper.copy()
    columns = np.concatenate(program.layers)
    low[columns], high[columns] = scores, scores
    return replace(program, linear=replace(linear, column_lower=low, column_upper=high))


def by_highs(program: OamipProgram) -> float:
    """The optimum by HiGHS alone, gates integer where the program says so: tangents at its own optima, in turn."""
    rows, sides, point = [], [], program.start
    tolerance = 1e-5 if program.linear.integer.any() else 1e-6  # HiGHS leaves integer programs a gap of 1e-6 itself
    for _ in range(200):
        row, side = program.tangents(point, np.arange(len(program.targets)))
        rows.append(row)
        sides.append(side)
        extra = np.concatenate(sides)
        linear = replace(
            program.linear,
            A=csr_array(vstack([program.linear.A, *rows], format="csr")),
            row_lower=np.concatenate([program.linear.row_lower, extra]),
            row_upper=np.concatenate([program.linear.row_upper, np.full(len(extra), np.inf)]),
        )
        found = milp(
            linear.c,
            integrality=linear.integer,
            bounds=Bounds(linear.column_lower, linear.column_upper),
            constraints=LinearConstraint(linear.A, linear.row_lower, linear.row_upper),
            options={"mip_rel_gap": 1e-7},
        )
        assert found.success, found.message
        point = found.x
        if program.objective(point) - found.fun < tolerance:
            return float(found.fun)
    raise AssertionError("the tangents did not converge")
