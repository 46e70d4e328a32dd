"""Each operator as a step of the paper's program gives what onnxruntime gives, on the examples of its own handler."""

from collections.abc import Mapping

import numpy as np
import onnx
from oracle import analysed, random_feed

from onnxprune.core.errors import ModelError
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.importance.oamip.compile import compile_network
from onnxprune.importance.oamip.steps import Activation, LinearStep, StepNetwork
from onnxprune.ops import handlers
from onnxprune.ops.examples import example
from onnxprune.runtime.session import open_session

EXPECTED = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace"}
    | {"Div", "Dropout", "Expand", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Identity"}
    | {"LeakyRelu", "MatMul", "MaxPool", "Mul", "Neg", "PRelu", "Pad", "ReduceMean", "ReduceSum", "Relu", "Reshape"}
    | {"Resize", "Slice", "SpaceToDepth", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Abs"}
)
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


def result(network: StepNetwork, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The network's result for given tensors, without scores."""
    values = {inner: np.asarray(given[tensor], dtype=np.float64).ravel() for tensor, inner in network.inputs}
    for step in network.steps:
        if isinstance(step, LinearStep):
            pairs = zip(step.inputs, step.maps, strict=True)
            terms = [values[name] if matrix is None else matrix @ values[name] for name, matrix in pairs]
            values[step.output] = np.sum(terms, axis=0) + step.bias
        elif isinstance(step, Activation):
            x = np.minimum(values[step.input], step.cap)
            bent = np.where(x > 0, x, step.slope * x)
            values[step.output] = np.maximum(x, step.floor) if np.isfinite(step.floor) else bent
        else:
            padded = np.append(values[step.input], -np.inf)
            values[step.output] = padded[step.windows].max(axis=1)
    return values[network.output]


def compared(proto: onnx.ModelProto) -> set[str]:
    """The operators of a model that the program holds, each compared with onnxruntime."""
    seen: set[str] = set()
    analysis = analysed(proto)
    if (fixed_batch(input_specs(analysis.model)) or 1) > 1:  # the program is made for one row
        return set()
    feed = random_feed(analysis, np.random.default_rng(1))
    tensors = [name for node in analysis.graph.nodes for name in node.outputs if name]
    taps = [name for name in tensors if name not in analysis.graph.outputs]
    session = open_session(analysis.model, taps, threads=1, optimise=False)
    truth = feed | dict(zip(tensors, session.run(tensors, feed), strict=True))
    for node in analysis.graph.nodes:
        try:
            network = compile_network(analysis, {}, [node.output()], [name for name in node.inputs if name in truth])
        except ModelError:
            continue
        if network.steps:
            seen.add(node.op_type)
            expected = truth[node.output()].ravel()
            np.testing.assert_allclose(result(network, truth), expected, rtol=1e-4, atol=1e-4, err_msg=str(node))
    return seen


def test_every_operator_of_the_program_gives_what_onnxruntime_gives() -> None:
    examples = [proto for handler in dict.fromkeys(handlers().values()) for proto in handler.examples()]
    seen = set().union(*(compared(proto) for proto in (*examples, example(MORE, MORE_WEIGHTS, MORE_NUMBERS))))
    assert seen >= EXPECTED
