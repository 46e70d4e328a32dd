"""Recognises what values a tensor holds, by running the operators that produce it on random numbers.

A sigmoid maps numbers to (0, 1), 0 to a half; a softmax adds up to 1 along an axis; a normalised vector has length 1.
The product of a few of the first, and of a softmax, is a probability too: that there is something, times that it is of
a class. Trying tells however an exporter spells it: as one operator, or as powers divided by their sum.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
_MOST_FACTORS = 3  # sigmoids in a product


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
            tried = _tried([entry], tensor, nodes.values(), analysis)
            if tried.kind not in ("bounded", "other"):
                return replace(tried, entry=entry)
            if tried.kind == "bounded" or not nearest.entry:
                nearest = replace(tried, entry=nearest.entry or entry)
    if not nearest.entry and 1 < len(entries) <= _MOST_FACTORS and entries <= layers:
        return _tried(sorted(entries), tensor, nodes.values(), analysis)
    return nearest


def _tried(entries: Sequence[str], tensor: str, nodes: Iterable[Node], analysis: Analysis) -> Nature:
    """What the values are, found by running the nodes from some tensors to another on random numbers."""
    model, facts = analysis.model, analysis.facts
    shapes = {name: facts.shapes[name] for name in entries if name in facts.shapes}
    if len(shapes) < len(entries) or any(prod(shape) > _MOST_ELEMENTS for shape in shapes.values()):
        return OTHER
    elements = [facts.dtypes.get(name, onnx.TensorProto.FLOAT) for name in entries]
    if any(element not in _FLOATS for element in elements):
        return OTHER
    dtypes = dict(zip(entries, map(onnx.helper.tensor_dtype_to_np_dtype, elements), strict=True))
    ordered = sorted(nodes, key=lambda node: node.index)
    made = {name for node in ordered for name in node.outputs}
    read = {name for node in ordered for name in node.inputs if name} - made - {*model.constants}
    known = {name: value for name in read if (value := analysis.pinned_value(name)) is not None}
    try:
        zeros = {name: np.zeros(shapes[name], dtypes[name]) for name in entries}
        runner = Runner(subgraph(model, ordered, {**known, **zeros}, [tensor]), [tensor])

        def function(values: Mapping[str, np.ndarray]) -> np.ndarray:
            given = {name: np.asarray(array, dtypes[name]) for name, array in values.items()}
            return np.asarray(runner.run_feed({**known, **given})[tensor], np.float64)

        return _recognised(function, shapes, facts.shapes[tensor])
    except ModelError:
        return OTHER


def _recognised(
    function: Callable[[Mapping[str, np.ndarray]], np.ndarray], before: Mapping[str, Shape], after: Shape
) -> Nature:
    """What the results of a function are, found by calling it on random and on extreme numbers."""
    generator = np.random.default_rng(0)
    normal = {name: 2 * generator.standard_normal(shape) for name, shape in before.items()}
    results = [function(normal), function({name: 3 * array for name, array in normal.items()})]
    if any(result.shape != after or not np.isfinite(result).all() for result in results):
        return OTHER
    for axis in (axis for axis, size in enumerate(after) if size > 1):
        if all(_are_ones(r.sum(axis)) and (r >= 0).all() for r in results):
            return Nature("distribution", axis)
        with np.errstate(over="ignore"):
            if all(_are_ones(np.exp(r).sum(axis)) for r in results):
                return Nature("log_distribution", axis)
        if all(_are_ones(np.linalg.norm(r, axis=axis)) for r in results):
            return Nature("unit", axis)
    levels = ({name: np.full(shape, level) for name, shape in before.items()} for level in _LEVELS)
    least, low, middle, high, most = map(function, levels)
    if not np.array_equal(least, low) or not np.array_equal(high, most):
        return OTHER
    tried = np.concatenate([result.ravel() for result in results])
    chances = np.ptp(tried) > 0 and tried.min() >= 0 and tried.max() <= 1
    return Nature(
        "probabilities" if chances and _is_chance(low, middle, high, after, float(tried.max())) else "bounded"
    )


def _is_chance(low: np.ndarray, middle: np.ndarray, high: np.ndarray, shape: Shape, most: float) -> bool:
    """Whether a function is a product of sigmoids, and of one softmax at most.

    Args:
        low: its values for very small inputs, all alike.
        middle: for inputs of 0.
        high: for very large ones: 1 without a softmax, else what this gives each of as many classes as an axis has.
        shape: of the values.
        most: the largest value for random inputs.
    """
    for share in (1.0, *(1 / size for size in shape if size > 1)):
        middles = [share * 0.5**count for count in range(1, _MOST_FACTORS + 1)]
        halves = (np.abs(middle - wanted).max(initial=0.0) < _NEAR * share for wanted in middles)
        if np.abs(high - share).max(initial=0.0) < _NEAR * share and any(halves) and (share == 1 or most > share):
            return bool(np.abs(low).max(initial=0.0) < _NEAR * share)
    return False


def _are_ones(values: np.ndarray) -> bool:
    return bool(np.abs(values - 1).max(initial=0.0) < _NEAR)
