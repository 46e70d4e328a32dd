"""The scorer `reconstruction`: statistics, elimination, damage curves."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.dataset import Dataset, set_apart
from onnxprune.calibration.fingerprint import fingerprint
from onnxprune.calibration.replay import Replay, batch_feeds
from onnxprune.calibration.runner import collect as run_model
from onnxprune.calibration.statistics import Moments
from onnxprune.calibration.store import Room
from onnxprune.core.cache import Cache
from onnxprune.core.errors import InputError
from onnxprune.core.execution import in_this_process, share
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, read_graph
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.reconstruction.curves import Original, Variant, curve, interpolate
from onnxprune.importance.reconstruction.elimination import Elimination, EliminationTask, eliminate
from onnxprune.importance.reconstruction.energy import eliminate_by_energy
from onnxprune.importance.reconstruction.moments import Statistics, collect
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.costs import count_costs
from onnxprune.structure.fit_targets import FitTarget, Schedule, fit_schedule
from onnxprune.structure.removal import masked
from onnxprune.structure.units import Group

_RIDGE = 3e-2
# Sums of divergences measured one group at a time rank allocations badly; this power of them does better. Held-out
# rows, after repair: ResNet-20 at half its MACs 0.29 nats instead of 0.35, ResNet-56 0.060 and 0.056. For some networks
# others do better, ResNet-8 for one: trials show it where they are quick.
_JOINT = 0.7
_OTHER_JOINT = (0.5, 1.0)
_HELD_OUT = 4  # every fourth row measures damage instead of moments
_MOST_MEASURED = 512
_LEAST_MEASURED = 16
_MOST_MACS = 8e12  # multiply-adds that all damage curves may take; fewer rows measure them in a large network
_MOST_PENDING = 32  # curves handed out at a time: each takes the weights of its variants along
_WIDTHS = (3 / 4, 1 / 2, 1 / 4)


def score(context: ScoreContext) -> Scores:
    """Score every group by reconstruction; see the package's description.

    Raises:
        InputError: there are no calibration rows, or numbers overflow on them.
        ModelError: onnxruntime cannot run the model.
    """
    data = context.data
    if data is None or len(data) == 0:
        raise InputError("--importance reconstruction needs calibration inputs: give --data")
    fit, measured = set_apart(data, _HELD_OUT)
    measured = measured.take(range(min(len(measured), _measured_rows(context))))
    plan = _plan(context)
    cache = Cache(None)
    if context.run.cache is not None:
        options = {"seed": context.run.seed, "importance": "reconstruction", "groups": _groups(context)}
        cache = Cache(context.run.cache, fingerprint(context.model, data, options))
    results, statistics = _eliminate(context, plan, fit, cache)
    others = [group for group in context.analysis.groups if group.name not in results]
    results |= eliminate_by_energy(context, others, fit)
    damages = _damages(context, plan, results, statistics, measured, cache)
    scores = []
    for group in context.analysis.groups:
        found = results[group.name]
        least = max(float(found.errors[0]), 1e-30)
        by_position = np.zeros(len(group))
        by_position[found.order] = np.sqrt(found.errors[:-1][::-1] / least)
        scores.append(GroupScore(group.name, found.order, np.clip(by_position, 0, 1), damages[group.name] ** _JOINT))
    return Scores(tuple(scores), powers=tuple(power / _JOINT for power in _OTHER_JOINT))


def _measured_rows(context: ScoreContext) -> int:
    """How many rows measure damage: each runs about half of the network for every width of every group."""
    macs = count_costs(context.model, context.analysis).macs
    runs = sum(len(widths(len(group))) for group in context.analysis.groups)
    return int(np.clip(_MOST_MACS // max(macs * runs // 2, 1), _LEAST_MEASURED, _MOST_MEASURED))


def widths(units: int) -> tuple[int, ...]:
    """Kept widths at which damage is measured, descending."""
    return tuple(sorted({max(1, round(units * share)) for share in _WIDTHS} - {units}, reverse=True))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is run: the original with folded weights stored, its nodes in order, and the layers by name."""

    model: Model
    graph: Graph
    schedule: Schedule
    points: Mapping[str, FitTarget]


def _plan(context: ScoreContext) -> _Plan:
    model, graph = context.model, context.analysis.graph
    folded = {layer.weight for layer in context.analysis.layers if layer.weight not in model.constants}
    if folded:
        edit = GraphEdit(model, graph)
        for name in folded:
            edit.set_value(name, context.analysis.facts.folded[name])
        model = edit.apply()
        graph = read_graph(model)
    found = fit_schedule(context.analysis)
    return _Plan(model, graph, found, {point.layer.node: point for point in found.points})


def _eliminate(
    context: ScoreContext, plan: _Plan, fit: Dataset, cache: Cache
) -> tuple[dict[str, Elimination], dict[str, Statistics]]:
    """Eliminate every group's units: statistics layer by layer, a task as soon as its last consumer is done."""
    analysis, run = context.analysis, context.run
    feeds = batch_feeds(plan.model, plan.graph, fit, analysis.row_bytes)
    replay = Replay(plan.model, plan.schedule.nodes, feeds, run.threads, Room(run.room))
    # A group with a consumer that is no layer (a product of two activations) is ordered otherwise.
    waiting = {g.name: {*g.consumers} for g in analysis.groups if g.consumers and {*g.consumers} <= {*plan.points}}
    used = {node for nodes in waiting.values() for node in nodes}
    statistics: dict[str, Statistics] = {}
    moments: dict[str, Moments] = {}
    futures: list[Future[Elimination]] = []
    points = [point for point in plan.schedule.points if point.layer.node in used]
    for number, point in enumerate(points):
        generator = np.random.default_rng([run.seed, number])
        weight = plan.model.constants[point.layer.weight]
        node = point.layer.node
        stored = cache.get("moments", node)
        replay.advance(replay.before(node), [point.layer.input])
        if stored is None:
            statistics[node], found = collect(replay, point, analysis, weight, generator)
            moments[node] = found
            cache.put("moments", node, {"second": found.second, "mean": found.mean, "rows": np.array(found.rows)})
        else:
            known = Moments(stored["second"], stored["mean"], int(stored["rows"]))
            statistics[node], moments[node] = collect(replay, point, analysis, weight, generator, known)
        if not np.isfinite(moments[node].second).all():
            raise InputError(
                f"{context.model.name}: on the calibration inputs the values that {node!r} reads are too large or not "
                "finite; check the scale of the inputs (--mean, --std, --scale)"
            )
        for group in analysis.groups:
            if point.layer.node in waiting.get(group.name, ()):
                waiting[group.name].remove(point.layer.node)
                if not waiting[group.name]:
                    futures.append(_submitted(context, group, statistics, moments, cache))
        needed = {name for group in analysis.groups if waiting.get(group.name) for name in group.consumers}
        moments = {name: value for name, value in moments.items() if name in needed}
        context.progress("statistics", number + 1, len(points))
    results = {}
    for number, future in enumerate(futures):
        result = future.result()
        results[result.group] = result
        context.progress("elimination", number + 1, len(futures))
    return results, statistics


def _groups(context: ScoreContext) -> tuple[tuple[str, bytes], ...]:
    """What is prunable: part of what results depend on."""
    return tuple((group.name, group.units.tobytes()) for group in context.analysis.groups)


def _submitted(
    context: ScoreContext,
    group: Group,
    statistics: Mapping[str, Statistics],
    moments: Mapping[str, Moments],
    cache: Cache,
) -> "Future[Elimination]":
    """A group's elimination: from the cache, or handed out, and kept as soon as it is there."""
    stored = cache.get("elimination", group.name)
    if stored is not None:
        future: Future[Elimination] = Future()
        future.set_result(Elimination.from_arrays(group.name, stored))
        return future

    def keep(done: "Future[Elimination]") -> None:
        if not done.cancelled() and done.exception() is None:
            cache.put("elimination", group.name, done.result().arrays())

    future = context.executor.submit(eliminate, _task(group, statistics, moments))
    future.add_done_callback(keep)
    return future


def _metric(slope: np.ndarray) -> np.ndarray:
    """Weights of squared errors by output channel: errors count where they show, behind a BatchNormalization."""
    square = np.asarray(slope, np.float64) ** 2
    return square if square.any() else np.ones(len(square))


def _task(group: Group, statistics: Mapping[str, Statistics], moments: Mapping[str, Moments]) -> EliminationTask:
    consumers = [
        consumer
        for node in group.consumers
        for consumer in statistics[node].consumers(group, moments[node], _metric(statistics[node].point.slope))
    ]
    return EliminationTask(group.name, tuple(consumers), widths(len(group)), _RIDGE)


def _damages(
    context: ScoreContext,
    plan: _Plan,
    results: Mapping[str, Elimination],
    statistics: Mapping[str, Statistics],
    data: Dataset,
    cache: Cache,
) -> dict[str, np.ndarray]:
    """Each group's damage curve, measured on `data`."""
    analysis, run = context.analysis, context.run
    meaning = read_meaning(analysis, context.outputs)
    feeds = batch_feeds(plan.model, plan.graph, data, analysis.row_bytes)
    replay = Replay(plan.model, plan.schedule.nodes, feeds, run.threads, Room(run.room))
    outputs = list(replay.peek(len(replay.nodes), meaning.outputs))
    reference = Reference(meaning, meaning.joined(outputs))
    starts = {group.name: _first(group, replay) for group in analysis.groups if _correctable(group, plan)}
    threads = run.threads if in_this_process(context.executor) else 1
    stops = sorted({*starts.values()})
    original = Original(plan.model, plan.schedule.nodes, feeds, reference, threads, stops, run.room)
    damages: dict[str, np.ndarray] = {}
    pending: deque[tuple[str, Future[dict[int, float]]]] = deque()

    def finish(most: int) -> None:
        while len(pending) > most:
            name, future = pending.popleft()
            measured = future.result()
            cache.put("damage", name, {"widths": np.array([*measured], int), "values": np.array([*measured.values()])})
            damages[name] = interpolate(results[name].errors, measured)
            context.progress("damage", len(damages), len(analysis.groups))

    with share(context.executor, original) as handle:
        for group in sorted(analysis.groups, key=lambda g: starts.get(g.name, -1)):
            found, stored = results[group.name], cache.get("damage", group.name)
            future: Future[dict[int, float]] = Future()
            if stored is not None:
                future.set_result(dict(zip(stored["widths"].tolist(), stored["values"].tolist(), strict=True)))
            elif group.name in starts:
                variants = _variants(group, analysis, plan, found, statistics)
                future = context.executor.submit(curve, handle, starts[group.name], variants)
            else:
                future.set_result(_masked_damage(group, context, found, reference, data))
            pending.append((group.name, future))
            finish(_MOST_PENDING)
        finish(0)
    return damages


def _first(group: Group, replay: Replay) -> int:
    return min((replay.before(node) for node in group.consumers), default=0)


def _correctable(group: Group, plan: _Plan) -> bool:
    """Whether all consumers are layers with weights of their own."""
    weights = [plan.points[node].layer.weight if node in plan.points else "" for node in group.consumers]
    return bool(weights) and all(len(plan.graph.consumers.get(name, ())) == 1 for name in weights)


def _masked_damage(
    group: Group,
    context: ScoreContext,
    found: Elimination,
    reference: Reference,
    data: Dataset,
) -> dict[int, float]:
    """Damage at a few widths without any correction, by running the oracle of removal."""
    measured = {}
    meaning = reference.meaning
    for width in widths(len(group)):
        removed = context.analysis.none_removed()
        removed[group.units[found.order[: len(group) - width]]] = True
        model = masked(context.analysis, removed)
        outputs = run_model(model, data, meaning.outputs, threads=context.run.threads, row_axes=meaning.row_axes)
        # A model of a fixed batch measured whole batches only.
        measured[width] = reference.divergence(
            {name: array[: len(reference.outputs[name])] for name, array in outputs.items()}
        )
    return measured


def _variants(
    group: Group, analysis: Analysis, plan: _Plan, found: Elimination, statistics: Mapping[str, Statistics]
) -> list[Variant]:
    variants = []
    for width, corrected in found.corrected.items():
        removed = analysis.none_removed()
        removed[group.units[found.order[: len(group) - width]]] = True
        remaining = list(corrected)
        constants: dict[str, np.ndarray] = {}
        for node in group.consumers:
            own = statistics[node]
            parts, remaining = remaining[: own.groups], remaining[own.groups :]
            constants |= own.constants(parts, removed, plan.model.constants)
        variants.append(Variant(width, constants))
    return variants
