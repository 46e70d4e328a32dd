"""Translates a graph, or a part of it, into the steps that the paper's program is built from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from onnxprune.core.errors import ModelError
from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.importance.oamip.steps import Activation, LinearStep, Maximum, Step, StepNetwork
from onnxprune.ops import handler_of
from onnxprune.ops.facts import evaluate
from onnxprune.ops.matrix import forms
from onnxprune.ops.traits import Flow, Kinks, LinearMap
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.channel_constants import ChannelConstants

ScorePoints = Mapping[str, np.ndarray]
"""Per scored tensor, in topological order, `(n,)` the unit at each position; 0 where no score applies."""

_UNSCORED = "\0unscored"


def logits_of(analysis: Analysis) -> str:
    """Name of the logits: the input of a final Softmax or LogSoftmax, else the model's first output."""
    name = analysis.graph.outputs[0]
    while (node := analysis.graph.producer.get(name)) is not None:
        rules = handler_of(node.op_type)
        # Behind the scores an output may only be renamed or cast.
        kept = rules.flow(node) is Flow.ELEMENTWISE and rules.moves(node) == (0,)
        if not rules.normalises_scores(node) and not (kept and analysis.graph.consumers.get(name) is None):
            break
        name = node.input(0)
    return name


def score_points(analysis: Analysis, normalisation: str = "after") -> dict[str, np.ndarray]:
    """The tensors where scores apply, each with the unit at every position.

    These are the activations on prunable channels, and for groups without one the tensors where their producers'
    values (bias and BatchNormalization included) are complete.

    Args:
        analysis: the model's.
        normalisation: `before`: units of which a producer's values (bias included) go into a BatchNormalization and
            nowhere else are scored in front of it, and where other producers' values are complete.
    """
    prunable = np.zeros(analysis.units, dtype=bool)
    for group in analysis.groups:
        prunable[group.units] = True
    outputs = {layer.node: layer.output for layer in analysis.layers}
    points: dict[str, np.ndarray] = {}
    covered = np.zeros(analysis.units, dtype=bool)
    for group in analysis.groups if normalisation == "before" else ():
        own = [_completed(analysis, outputs[name], before=True) for name in group.producers if name in outputs]
        if any(_is_normalised(analysis, tensor) for tensor in own):
            for tensor in own:
                units = units_at(analysis, tensor, prunable)
                if units is not None:
                    points[tensor] = units
                    covered[units] = True
    left = prunable & ~covered
    for node in analysis.graph.nodes:
        if handler_of(node.op_type).activates(node):
            units = units_at(analysis, node.output(), left)
            if units is not None:
                points[node.output()] = units
                covered[units] = True
    for group in analysis.groups:
        if covered[group.units].all():
            continue
        for name in (outputs[producer] for producer in group.producers if producer in outputs):
            tensor = _completed(analysis, name)
            units = units_at(analysis, tensor, prunable & ~covered)
            if units is not None:
                points[tensor] = units
    order = {name: index for index, node in enumerate(analysis.graph.nodes) for name in node.outputs}
    return dict(sorted(points.items(), key=lambda item: order[item[0]]))


def _is_normalised(analysis: Analysis, tensor: str) -> bool:
    """Whether a BatchNormalization is the only reader of a tensor that is no activation's."""
    producer, readers = analysis.graph.producer.get(tensor), analysis.graph.consumers.get(tensor, ())
    if len(readers) != 1 or (producer is not None and handler_of(producer.op_type).activates(producer)):
        return False
    return handler_of(readers[0].op_type).normalises_batches(readers[0])


def seen_behind(analysis: Analysis, tensor: str) -> str:
    """Where what is scored in front of a BatchNormalization is seen: its activation, else its completed values."""
    seen = tensor
    while len(readers := analysis.graph.consumers.get(seen, ())) == 1:
        handler = handler_of(readers[0].op_type)
        if handler.flow(readers[0]) is None:
            break
        seen = readers[0].output()
        if handler.activates(readers[0]):
            return seen
    return _completed(analysis, tensor)


def _completed(analysis: Analysis, tensor: str, *, before: bool = False) -> str:
    """The tensor behind a bias, BatchNormalization or scale that is the only reader of a tensor.

    With `before`, the one in front of the first BatchNormalization.
    """
    while len(readers := analysis.graph.consumers.get(tensor, ())) == 1:
        node = readers[0]
        if before and _is_normalised(analysis, tensor):
            break
        others = [name for name in node.inputs if name and name != tensor]
        if tensor not in node.inputs or any(analysis.pinned_value(name) is None for name in others):
            break
        axis = next((a for a, ids in enumerate(analysis.labels.get(tensor, ())) if ids is not None), 0)
        values = ChannelConstants(analysis, tensor, axis)
        if handler_of(node.op_type).affine(node, node.inputs.index(tensor), values) is None:
            break
        tensor = node.output()
    return tensor


def units_at(analysis: Analysis, tensor: str, allowed: np.ndarray) -> np.ndarray | None:
    """`(n,)` the unit at each position of a tensor, 0 for units that are not `allowed`; None where there is none."""
    labels, shape = analysis.labels.get(tensor, ()), analysis.facts.shapes.get(tensor)
    if shape is None:
        return None
    for axis, ids in enumerate(labels):
        if ids is not None and allowed[ids].any():
            along = np.where(allowed[ids], ids, 0).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            return np.broadcast_to(along, shape).ravel()
    return None


def compile_network(
    analysis: Analysis, points: ScorePoints, outputs: Sequence[str], given: Collection[str] = ()
) -> StepNetwork:
    """Translate nodes into steps, from the model's inputs or given tensors to `outputs`.

    The network's output is the last of `outputs`.

    Args:
        analysis: the model's.
        points: where scores apply.
        outputs: the tensors to compute.
        given: tensors whose values are given for each image instead of the model's inputs; a score at one applies.

    Raises:
        ModelError: an operator is not piecewise linear, or its shapes are unknown.
    """
    compiler = _Compiler(analysis, points, set(given) | set(analysis.graph.inputs))
    known = compiler.given

    def is_known(name: str) -> bool:
        return name in known or analysis.pinned_value(name) is not None

    for node in needed_nodes(analysis.graph.nodes, outputs, is_known):
        compiler.visit(node)
    for output in outputs:
        if output in compiler.given:
            compiler.give(output)
    return StepNetwork(tuple(compiler.inputs.items()), tuple(compiler.steps), outputs[-1])


class _Compiler:
    """Translates node by node; implements the `Operands` that handlers ask."""

    def __init__(self, analysis: Analysis, points: ScorePoints, given: set[str]) -> None:
        self.analysis = analysis
        self.points = points
        self.given = given
        self.steps: list[Step] = []
        self.inputs: dict[str, str] = {}
        self._values: dict[str, np.ndarray] = {}

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.analysis.shape(tensor)

    def value(self, tensor: str) -> np.ndarray | None:
        value = self._values.get(tensor)
        return self.analysis.pinned_value(tensor) if value is None else value

    def run(self, node: Node, arrays: Sequence[np.ndarray]) -> np.ndarray:
        left = list(arrays)
        feeds = {}
        for name in node.inputs:
            if name and name not in feeds:
                known = self.value(name)
                feeds[name] = left.pop(0) if known is None else known
        results = evaluate(self.analysis.model, node, feeds)
        if results is None:
            raise self.fail(node, "it cannot be evaluated")
        return results[node.output()]

    def fail(self, node: Node, why: str) -> ModelError:
        return ModelError(
            f"{self.analysis.model.name}: {node} cannot be part of the program of --importance oamip: {why}; "
            "use --oamip-decoupled, or another --importance"
        )

    def visit(self, node: Node) -> None:
        """Add the steps of one node."""
        for name in node.inputs:
            if name in self.given and name not in self.inputs:
                self.give(name)
        known = {name: value for name in node.inputs if name and (value := self.value(name)) is not None}
        if not node.captured and all(name in known for name in node.inputs if name):
            results = evaluate(self.analysis.model, node, known)
            if results is not None:
                self._values.update(results)
                return
        self._add(node.output(), node.name, self._step(node))

    def _step(self, node: Node) -> Step:
        """The node as its handler describes it: an activation, a linear map or maximum, or values that move."""
        handler = handler_of(node.op_type)
        if (kinks := handler.kinks(node, self.value)) is not None:
            return self._activation(node, kinks)
        form = handler.matrices(node, self)
        if form is None and (moved := handler.moves(node)):
            kept = moved == (0,) and handler.flow(node) is Flow.ELEMENTWISE
            form = (forms.identity if kept else forms.movement)(node, self)
        if form is None:
            raise self.fail(node, "the operator is not known to be piecewise linear")
        if isinstance(form, LinearMap):
            return LinearStep(node.name, node.output(), form.inputs, form.matrices, form.bias)
        return Maximum(node.name, node.output(), form.input, form.windows)

    def _activation(self, node: Node, kinks: Kinks) -> Activation:
        """The step without a score; `_add` adds the units."""
        shape = self.shape(node.output())
        slope = np.asarray(kinks.below, dtype=np.float64)
        step = Activation(node.name, node.output(), node.input(0), np.zeros(prod(shape), np.int64), cap=kinks.high)
        if not slope.any():
            return replace(step, floor=kinks.low)
        return replace(step, slope=np.broadcast_to(slope, shape).ravel() if slope.ndim else slope)

    def _add(self, tensor: str, node: str, step: Step) -> None:
        """Add the step that computes a tensor, and apply its score."""
        units = self.points.get(tensor)
        if units is None:
            self.steps.append(step)
        elif isinstance(step, Activation):
            self.steps.append(replace(step, units=units))
        else:
            self.steps.append(replace(step, output=tensor + _UNSCORED))
            self.steps.append(Activation(node, tensor, tensor + _UNSCORED, units))

    def give(self, tensor: str) -> None:
        """Add a given tensor, and apply its score."""
        units = self.points.get(tensor)
        self.inputs[tensor] = tensor if units is None else tensor + _UNSCORED
        if units is not None:
            self.steps.append(Activation(tensor, tensor, tensor + _UNSCORED, units))
