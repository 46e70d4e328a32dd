"""Compares operators as steps of the paper's program (`kinks`, `matrices`, `moves` of a handler) with onnxruntime."""

from collections.abc import Mapping

import numpy as np

from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import ModelError
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.importance.oamip.compile import compile_network
from onnxprune.importance.oamip.steps import Activation, LinearStep, StepNetwork
from onnxprune.runtime.session import open_session, runtime_errors
from onnxprune.structure.analysis import Analysis
from onnxprune.testing.oracle import random_feed

_TOLERANCE = 1e-4  # onnxruntime computes in single precision


def check_steps(analysis: Analysis) -> frozenset[str]:
    """Compare every node that the paper's program can hold, on random inputs of one row.

    Returns:
        The operators that were compared.

    Raises:
        AssertionError: a node's steps give something else.
        ModelError: onnxruntime cannot run the model.
    """
    if (fixed_batch(input_specs(analysis.model)) or 1) > 1:  # the program is made for one row
        return frozenset()
    nodes = analysis.graph.nodes
    feed = random_feed(analysis, np.random.default_rng(1))
    tensors = [name for node in nodes for name in node.outputs if name]
    taps = [name for name in tensors if name not in analysis.graph.outputs]
    session = open_session(analysis.model, taps, engine=ONE_CORE, optimise=False)
    with runtime_errors(f"{analysis.name}: onnxruntime cannot run the model"):
        values = feed | dict(zip(tensors, session.run(tensors, feed), strict=True))
    compared = set()
    for node in nodes:
        try:
            network = compile_network(analysis, {}, [node.output()], [name for name in node.inputs if name in values])
        except ModelError:  # no part of the program
            continue
        if network.steps:
            actual, wanted = _result(network, values), values[node.output()].ravel()
            same = actual.shape == wanted.shape and np.allclose(actual, wanted, rtol=_TOLERANCE, atol=_TOLERANCE)
            assert same, f"{node} as a step of the paper's program does not give what onnxruntime gives"
            compared.add(node.op_type)
    return frozenset(compared)


def _result(network: StepNetwork, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The network's result for given tensors, without scores."""
    values = {inner: np.asarray(given[tensor], dtype=np.float64).ravel() for tensor, inner in network.inputs}
    for step in network.steps:
        if isinstance(step, LinearStep):
            pairs = zip(step.inputs, step.maps, strict=True)
            terms = [values[name] if matrix is None else matrix @ values[name] for name, matrix in pairs]
            values[step.output] = np.sum(terms, axis=0) + step.bias
        elif isinstance(step, Activation):
            capped = np.minimum(values[step.input], step.cap)
            bent = np.where(capped > 0, capped, step.slope * capped)
            values[step.output] = np.maximum(capped, step.floor) if np.isfinite(step.floor) else bent
        else:
            padded = np.append(values[step.input], -np.inf)
            values[step.output] = padded[step.windows].max(axis=1)
    return values[network.output]
