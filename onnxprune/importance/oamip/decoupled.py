"""The decoupled form of the paper's program: the network is cut into modules, each with its own small program.

A module holds consecutive scored layers. What enters it is constant, as the original network computes it for each
image; what leaves it is pooled over positions and classified by an auxiliary head that is fitted on calibration rows.
The last module keeps the network's own classifier where the program can hold it. Modules are independent of each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import Runner
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.text import percent
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.oamip.compile import (
    ScorePoints,
    compile_network,
    logits_of,
    score_points,
    seen_behind,
)
from onnxprune.importance.oamip.form import areas_of
from onnxprune.importance.oamip.heads import Head, fit_head
from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.steps import LinearStep, StepNetwork
from onnxprune.importance.oamip.task import ProgramTask
from onnxprune.ops import handler_of
from onnxprune.ops.matrix import matrices
from onnxprune.structure.analysis import Analysis

_STAGE = "auxiliary heads"
_FEATURES = "\0features"
_LOGITS = "\0logits"


@dataclass(frozen=True, slots=True)
class Module:
    """A part of the network that has its own program.

    Attributes:
        points: where scores apply.
        sinks: tensors that leave it (scored ones that no other score in it depends on, or what follows from them).
        given: tensors that enter it.
    """

    points: ScorePoints
    sinks: tuple[str, ...]
    given: frozenset[str]


def module_tasks(
    context: ScoreContext, analysis: Analysis, sets: Sequence[np.ndarray], labels: np.ndarray, how: Propagation
) -> tuple[list[ProgramTask], list[str]]:
    """One task for each module and set of images, and notes for the user.

    Args:
        context: the scoring run.
        analysis: the model's at the data's sizes.
        sets: rows of the calibration data per program.
        labels: `(rows,)` classes.
        how: bounds and gates.

    Raises:
        InputError: the rows are all of one class.
        ModelError: an operator inside a module has no rule, or there is no module.
    """
    assert context.data is not None
    if len(np.unique(labels)) < 2:
        raise InputError("auxiliary heads need calibration rows of at least two classes")
    config, data = context.oamip, context.data
    points = score_points(analysis, config.normalisation)
    if not points:
        raise ModelError(
            f"{analysis.name}: --importance oamip scores what activations behind layers make, and there are none; use "
            "another --importance"
        )
    usual = score_points(analysis)
    seen = {name: seen_behind(analysis, name) for name in points if name not in usual}
    modules = [_module(analysis, part, seen) for part in _parts(points, config.cut)]
    last, note = _last_network(analysis, modules[-1])
    heads = _fit_heads(context, analysis, modules if last is None else modules[:-1], labels)
    notes = [] if note is None else [note]
    if heads:
        shares = [percent(head.accuracy, 0) for head in heads]
        notes.append(
            f"auxiliary heads classify right: {', '.join(shares)} of the {len(labels)} rows they were fitted on"
        )

    networks, classes = [], []
    for module, head in zip(modules, heads, strict=False):
        networks.append(_with_head(analysis, context, module, head))
        classes.append(head.classes)
    if last is not None:
        networks.append(last)
        classes.append(np.arange(prod(analysis.shape(logits_of(analysis)))))

    rows = np.unique(np.concatenate(sets))
    given = sorted({tensor for network in networks for tensor, _ in network.inputs})
    captured = _captured(context, data, rows, given)
    tasks = []
    for number, (module, network, known) in enumerate(zip(modules, networks, classes, strict=True)):
        layers = _layers(context, module)
        for chosen in sets:
            inside = [row for row in chosen if labels[row] in known]
            if not inside:
                continue
            tasks.append(
                ProgramTask(
                    name=f"program of module {number + 1} (to {module.sinks[-1]!r})",
                    network=network,
                    images=tuple({t: captured[row][t] for t, _ in network.inputs} for row in inside),
                    labels=np.searchsorted(known, labels[inside]),
                    layers=layers,
                    areas=areas_of(context.analysis, layers, config),
                    fixed=np.ones(context.analysis.units),
                    lambda_=config.lambda_,
                    how=how,
                    time_limit=config.time_limit,
                    seed=context.run.seed,
                )
            )
    return tasks, notes


def _parts(points: ScorePoints, size: int) -> list[ScorePoints]:
    """Cut the scored tensors into consecutive parts of `size` each."""
    names = list(points)
    return [{name: points[name] for name in names[start : start + size]} for start in range(0, len(names), size)]


def _module(analysis: Analysis, points: ScorePoints, seen: Mapping[str, str]) -> Module:
    """The module around some scored tensors: its outputs, and the tensors that enter it.

    Heads read a value that is scored before a BatchNormalization where it is `seen`: behind that and the activation.
    """
    below: set[str] = set()
    depends: dict[str, set[str]] = {name: {name} for name in points}
    for node in analysis.graph.nodes:
        sources = set().union(*(depends.get(name, set()) for name in (*node.inputs, *node.captured)))
        for name in node.outputs:
            if sources:
                below.add(name)
                depends[name] = depends.get(name, set()) | sources
    covered = {other for name in points for other in depends[name] if other != name}
    sinks = tuple(dict.fromkeys(seen.get(name, name) for name in points if name not in covered))
    return Module(points, sinks, frozenset(_given(analysis, points, below, sinks)))


def _given(analysis: Analysis, points: ScorePoints, below: set[str], wanted: Sequence[str]) -> set[str]:
    """Tensors that a module reads and that none of its scores changes."""
    given: set[str] = set()
    open_, seen = list(wanted), set()
    while open_:
        name = open_.pop()
        node = analysis.graph.producer.get(name)
        if name in seen or analysis.pinned_value(name) is not None:
            continue
        seen.add(name)
        kinked = node is not None and handler_of(node.op_type).kinks(node, analysis.pinned_value) is not None
        inner = name in below or (name in points and kinked)
        if node is None or not inner:
            given.add(name)
            continue
        open_.extend(n for n in (*node.inputs, *node.captured) if n)
    return given


def _last_network(analysis: Analysis, module: Module) -> tuple[StepNetwork | None, str | None]:
    """The last module with the network's own classifier; None and the reason where no rule covers it."""
    logits = logits_of(analysis)
    below: set[str] = set()
    for node in analysis.graph.nodes:
        if any(name in below or name in module.points for name in (*node.inputs, *node.captured)):
            below.update(node.outputs)
    if logits not in below:
        return None, None
    try:
        given = _given(analysis, module.points, below, [logits])
        return compile_network(analysis, module.points, [logits], given), None
    except ModelError as error:
        return None, f"the last module has an auxiliary head instead of the network's own classifier: {error}"


def _channel_axis(analysis: Analysis, context: ScoreContext, tensor: str) -> int:
    """The channel axis of a tensor: the labelled one, else the first axis after the batch."""
    axes = context.analysis.labels.get(tensor, ())
    return next((a for a, ids in enumerate(axes) if ids is not None and a > 0), min(1, len(analysis.shape(tensor)) - 1))


def _with_head(analysis: Analysis, context: ScoreContext, module: Module, head: Head) -> StepNetwork:
    """The module's steps with its auxiliary classifier: mean over positions, then a linear layer."""
    network = compile_network(analysis, module.points, module.sinks, module.given)
    steps, first = list(network.steps), 0
    names, maps = [], []
    for position, sink in enumerate(module.sinks):
        shape, axis = analysis.shape(sink), _channel_axis(analysis, context, sink)
        pool = matrices.reduction(shape, [a for a in range(len(shape)) if a != axis], mean=True)
        name = f"{_FEATURES}{position}"
        steps.append(LinearStep(sink, name, (sink,), (pool,), np.zeros(pool.shape[0])))
        names.append(name)
        maps.append(matrices.dense(head.weight[:, first : first + pool.shape[0]]))
        first += pool.shape[0]
    steps.append(LinearStep("auxiliary head", _LOGITS, tuple(names), tuple(maps), head.bias))
    return replace(network, steps=tuple(steps), output=_LOGITS)


def _fit_heads(context: ScoreContext, analysis: Analysis, modules: Sequence[Module], labels: np.ndarray) -> list[Head]:
    """Fit the auxiliary classifier of each module on all calibration rows."""
    if not modules:
        return []
    assert context.data is not None
    sinks = list(dict.fromkeys(sink for module in modules for sink in module.sinks))
    axes = {sink: _channel_axis(analysis, context, sink) for sink in sinks}
    pooled: dict[str, list[np.ndarray]] = {sink: [] for sink in sinks}
    runner = Runner(context.model, sinks, engine=context.run.engine)
    done = 0
    context.progress(_STAGE, 0, len(context.data))
    for batch in runner.run(context.data):
        for sink in sinks:
            value = batch[sink].astype(np.float64)
            others = tuple(a for a in range(1, value.ndim) if a != axes[sink])
            pooled[sink].append(value.mean(axis=others) if others else value)
        done += len(pooled[sinks[0]][-1])
        context.progress(_STAGE, done, len(context.data))
    features = {sink: np.concatenate(parts) for sink, parts in pooled.items()}
    joined = [np.concatenate([features[sink] for sink in module.sinks], axis=1) for module in modules]
    futures = [context.executor.submit(fit_head, matrix, labels) for matrix in joined]
    return [future.result() for future in futures]


def _captured(
    context: ScoreContext, data: Dataset, rows: np.ndarray, tensors: Sequence[str]
) -> dict[int, dict[str, np.ndarray]]:
    """Values of tensors, for one row at a time."""
    runner = Runner(context.model, tensors, engine=context.run.engine)
    values: dict[int, dict[str, np.ndarray]] = {}
    for row in rows:
        values[int(row)] = next(iter(runner.run(data.take([int(row)]))))
    return values


def _layers(context: ScoreContext, module: Module) -> tuple[np.ndarray, ...]:
    """The units of each group that is scored in the module."""
    scored = np.zeros(context.analysis.units, dtype=bool)
    for units in module.points.values():
        scored[units] = True
    layers = (group.units[scored[group.units]] for group in context.analysis.groups)
    return tuple(units for units in layers if len(units))
