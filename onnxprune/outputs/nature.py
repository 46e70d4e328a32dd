"""Recognises what values a tensor holds, by running the operators that produce it on random numbers.

A sigmoid maps numbers to (0, 1), 0 to a half; a softmax adds up to 1 along an axis; a normalised vector has length 1.
Trying tells however an exporter spells it: as one operator, or as powers divided by their sum.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np
import onnx

from onnxprune.calibration.runner import Runner
from onnxprune.core.errors import ModelError
from onnxprune.graph.nodes import Node
from onnxprune.graph.operators import Shape
from onnxprune.graph.subgraph import subgraph
from onnxprune.structure.analysis import Analysis

_MOST_NODES = 12
_MOST_ELEMENTS = 1 << 22
_LEVELS = (-1e4, -1e3, 0.0, 1e3, 1e4)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_NEAR = 1e-3


@dataclass(frozen=True, slots=True)
class Nature:
    """What a tensor's values are: probabilities, distributions, unit vectors, bounded numbers, or other.

    Attributes:
        kind: independent probabilities, distributions along an axis or their logarithms, vectors of length 1 along an
            axis, numbers within bounds, or nothing of these.
        axis: see there; 0 where there is none.
        entry: the tensor that they are made of; of values of no known nature, the nearest that they depend on alone.
    """

    kind: Literal["probabilities", "distribution", "log_distribution", "unit", "bounded", "other"]
    axis: int = 0
    entry: str = field(default="", compare=False)

    @property
    def has_axis(self) -> bool:
        """Whether the kind is a property of vectors along an axis."""
        return self.kind in ("distribution", "log_distribution", "unit")


OTHER = Nature("other")


def nature(tensor: str, analysis: Analysis) -> Nature:
    """Find out what a tensor's values are, from the last few operators before it.

    Tries those between the tensor and one that all of them start from, then more of them, up to the last layer.
    """
    graph, layers = analysis.graph, {layer.output for layer in analysis.layers}
    shape = analysis.facts.shapes.get(tensor)
    if shape is None or prod(shape) > _MOST_ELEMENTS:
        return OTHER
    nodes: dict[str, Node] = {}
    entries, nearest = {tensor}, OTHER
    while len(nodes) < _MOST_NODES:
        open_ends = [
            graph.producer[name]
            for name in entries
            if name in graph.producer and name not in layers and not graph.producer[name].captured
        ]
        if not open_ends:
            break
        node = max(open_ends, key=lambda candidate: candidate.index)
        nodes[node.name] = node
        entries = {name for name in (*entries, *node.inputs) if name and name not in node.outputs}
        entries = {name for name in entries if analysis.pinned_value(name) is None}
        if len(entries) == 1:
            (entry,) = entries
            tried = _tried(entry, tensor, nodes.values(), analysis)
            if tried.kind not in ("bounded", "other"):
                return replace(tried, entry=entry)
            if tried.kind == "bounded" or not nearest.entry:
                nearest = replace(tried, entry=nearest.entry or entry)
    return nearest


def _tried(entry: str, tensor: str, nodes: Iterable[Node], analysis: Analysis) -> Nature:
    """What the values are, found by running the nodes from one tensor to another on random numbers."""
    model, facts = analysis.model, analysis.facts
    shape = facts.shapes.get(entry)
    element = facts.dtypes.get(entry, onnx.TensorProto.FLOAT)
    if shape is None or prod(shape) > _MOST_ELEMENTS or element not in _FLOATS:
        return OTHER
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    ordered = sorted(nodes, key=lambda node: node.index)
    made = {name for node in ordered for name in node.outputs}
    read = {name for node in ordered for name in node.inputs if name} - made - {*model.constants}
    known = {name: value for name in read if (value := analysis.pinned_value(name)) is not None}
    try:
        runner = Runner(subgraph(model, ordered, {**known, entry: np.zeros(shape, dtype)}, [tensor]), [tensor])

        def function(values: np.ndarray) -> np.ndarray:
            return np.asarray(runner.run_feed({**known, entry: values.astype(dtype)})[tensor], np.float64)

        return _recognised(function, shape, facts.shapes[tensor])
    except ModelError:
        return OTHER


def _recognised(function: Callable[[np.ndarray], np.ndarray], before: Shape, after: Shape) -> Nature:
    """What the results of a function are, found by calling it on random and on extreme numbers."""
    normal = 2 * np.random.default_rng(0).standard_normal(before)
    results = [function(normal), function(3 * normal)]
    if any(result.shape != after or not np.isfinite(result).all() for result in results):
        return OTHER
    for axis in (axis for axis, size in enumerate(after) if size > 1):
        if all(_are_ones(r.sum(axis)) and (r >= 0).all() for r in results):
            return Nature("distribution", axis)
        if all(_are_ones(np.exp(r).sum(axis)) for r in results):
            return Nature("log_distribution", axis)
        if all(_are_ones(np.linalg.norm(r, axis=axis)) for r in results):
            return Nature("unit", axis)
    least, low, middle, high, most = (function(np.full(before, level)) for level in _LEVELS)
    if not np.array_equal(least, low) or not np.array_equal(high, most):
        return OTHER
    varies = np.ptp(np.concatenate([result.ravel() for result in results])) > 0
    recognised = all(np.abs(r - wanted).max(initial=0.0) < _NEAR for r, wanted in ((low, 0), (middle, 0.5), (high, 1)))
    return Nature("probabilities" if varies and recognised else "bounded")


def _are_ones(values: np.ndarray) -> bool:
    return bool(np.abs(values - 1).max(initial=0.0) < _NEAR)
