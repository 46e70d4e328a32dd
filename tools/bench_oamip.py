"""Time the paper's program: ours beside a straightforward model of the same program, in one run.

    python tools/bench_oamip.py MODEL.onnx IMAGES.npz [--images 10] [--lambda 5] [--straightforward]

IMAGES.npz holds `x`, rows as the model takes them, and `y`, their classes. The straightforward model writes out a
column for every activation of a network of Gemm and Relu, gives all rows to HiGHS (through scipy) and adds tangents at
each optimum.
"""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, lil_array, vstack

from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.importance.oamip.compile import compile_network, logits_of, score_points
from onnxprune.importance.oamip.program import build
from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.solve import solve
from onnxprune.structure.coupling import analyse

Layers = list[tuple[np.ndarray, np.ndarray]]


def dense_layers(path: Path) -> Layers:
    """Weights `(out, in)` and biases of a network of Gemm and Relu."""
    model = load(path)
    found = []
    for node in read_graph(model).nodes:
        if node.op_type == "Gemm":
            weight = model.constants[node.input(1)].astype(np.float64)
            transposed = bool(node.int("transB", 0))
            found.append((weight if transposed else weight.T, model.constants[node.input(2)].astype(np.float64)))
        elif node.op_type not in ("Relu", "Flatten"):
            raise SystemExit(f"{path}: the straightforward model takes Gemm and Relu only, not {node.op_type}")
    return found


def ours(path: Path, x: np.ndarray, y: np.ndarray, lambda_: float) -> tuple[float, float]:
    """Objective and seconds, from the graph to the solution."""
    model = load(path)
    name = model.proto.graph.input[0].name
    analysis = analyse(model, {name: (1, *x.shape[1:])})
    began = perf_counter()
    network = compile_network(analysis, score_points(analysis), [logits_of(analysis)])
    images = [{name: row[None]} for row in x]
    layers = [group.units for group in analysis.groups]
    program, _ = build(network, images, y, layers, np.ones(analysis.units), lambda_, Propagation())
    built = perf_counter() - began
    found = solve(program, "program")
    seconds = perf_counter() - began
    rows, columns = program.linear.A.shape
    print(f"ours: {rows} rows, {columns} columns, {program.linear.A.nnz} coefficients; built in {built:.2f} s")
    print(f"ours: objective {found.objective:.7f}, bound {found.bound:.7f}, {found.status}, {seconds:.2f} s in all")
    return found.objective, seconds


class Written:
    """The straightforward program while it is written: rows `matrix x <= side`, and bounds."""

    def __init__(self, columns: int) -> None:
        self.matrix = csr_array((0, columns))
        self.side = np.zeros(0)
        self.low, self.high = np.full(columns, -np.inf), np.full(columns, np.inf)

    def require(self, matrix: lil_array, side: np.ndarray) -> None:
        """Add rows."""
        """Add rows."""
        self.matrix = csr_array(vstack([self.matrix, matrix.tocsr()], format="csr"))
        self.side = np.concatenate([self.side, side])


def write_image(written: Written, layers: Layers, image: np.ndarray, first: int, score_at: np.ndarray) -> None:
    """All rows of one image, whose activations start at column `first` (gates relaxed, bounds of the image's box)."""
    columns = len(written.low)
    lower, upper = image - 1e-5, image + 1e-5
    for layer, (weight, bias) in enumerate(layers):
        n = len(bias)
        centre, radius = weight @ (lower + upper) / 2 + bias, np.abs(weight) @ (upper - lower) / 2
        below, above = centre - radius, centre + radius
        at, here = first + score_at[layer], np.arange(n)
        source = weight @ image + bias if layer == 0 else bias
        a, own = lil_array((n, columns)), lil_array((n, columns))
        if layer > 0:
            a[:, first + score_at[layer - 1] : at] = weight
        own[here, at + here] = 1.0
        if layer == len(layers) - 1:
            written.require(own - a, source)
            written.require(a - own, -source)
            return
        active = np.maximum(above, 0.0)
        r = a.copy()
        r[here, score_at[layer] + here] = active
        written.low[at : at + n], written.high[at : at + n] = 0.0, active
        written.require(r - own, active - source)
        # A gate that is on has v = 1, one that is off v = 0: every gate of the box is decided.
        written.require(own - r, source - active - np.where(below >= 0, 0.0, below))
        lower, upper = np.maximum(below, 0.0), active


def straightforward(layers: Layers, x: np.ndarray, y: np.ndarray, lambda_: float) -> tuple[float, float]:
    """Objective and seconds of the model with every activation written out; one or two hidden layers."""
    began = perf_counter()
    hidden, classes = [len(bias) for _, bias in layers[:-1]], len(layers[-1][1])
    if not 1 <= len(hidden) <= 2:
        raise SystemExit("the straightforward model takes one or two hidden layers")
    score_at = np.concatenate([[0], np.cumsum(hidden)])
    scored = int(score_at[-1])
    firsts = scored + np.arange(len(x)) * (scored + classes + 1)
    losses = firsts + scored + classes
    columns = int(losses[-1]) + 2
    written = Written(columns)
    written.low[:scored], written.high[:scored], written.low[losses] = 0.0, 1.0, 0.0
    for image, first in zip(x.reshape(len(x), -1), firsts, strict=True):
        write_image(written, layers, image, int(first), score_at)
    link = lil_array((len(hidden), columns))
    for layer, n in enumerate(hidden):
        link[layer, score_at[layer] : score_at[layer + 1]] = 1.0 / n
        link[layer, columns - 1] = -1.0
    written.require(link, np.full(len(hidden), 2.0))
    c = np.zeros(columns)
    c[losses], c[-1] = lambda_ / len(x), 1.0
    rounds, worst = 0, np.inf
    while worst >= 1e-5:
        bounds = np.column_stack([written.low, written.high])
        result = linprog(c, A_ub=written.matrix, b_ub=written.side, bounds=bounds, method="highs")
        rounds += 1
        if result.status != 0:
            raise SystemExit(f"HiGHS failed: {result.message}")
        z = np.stack([result.x[first + scored : first + scored + classes] for first in firsts])
        top = z.max(axis=1, keepdims=True)
        slope = np.exp(z - top)
        value = top[:, 0] + np.log(slope.sum(axis=1)) - z[np.arange(len(z)), y]
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(z)), y] -= 1.0
        cuts = lil_array((len(x), columns))
        for m, first in enumerate(firsts):
            cuts[m, first + scored : first + scored + classes] = slope[m]
            cuts[m, losses[m]] = -1.0
        worst = float((value - result.x[losses]).max())
        written.require(cuts, (slope * z).sum(axis=1) - value)
    seconds = perf_counter() - began
    print(f"straightforward: {written.matrix.shape[0]} rows, {columns} columns; {rounds} rounds of HiGHS")
    print(f"straightforward: objective {result.fun:.7f}, {seconds:.2f} s in all")
    return float(result.fun), seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=0, help="rows used; all by default")
    parser.add_argument("--lambda", dest="lambda_", type=float, default=5.0)
    parser.add_argument("--straightforward", action="store_true", help="solve the straightforward model too")
    options = parser.parse_args()
    with np.load(options.data) as held:
        x, y = held["x"], held["y"]
    if options.images:
        x, y = x[: options.images], y[: options.images]
    objective, seconds = ours(options.model, x.astype(np.float32), y, options.lambda_)
    if options.straightforward:
        reference, plain = straightforward(dense_layers(options.model), x.astype(np.float64), y, options.lambda_)
        print(f"ratio: {plain / seconds:.1f} times as fast; objectives differ by {abs(objective - reference):.1e}")


if __name__ == "__main__":
    main()
