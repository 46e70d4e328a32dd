"""The scorer `reconstruction`: collects statistics, eliminates units, and measures damage curves."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.fingerprint import fingerprint, provider_entry
from onnxprune.calibration.replay import Replay, batch_feeds
from onnxprune.calibration.runner import collect as run_model
from onnxprune.calibration.statistics import Moments, pooled
from onnxprune.calibration.store import Room
from onnxprune.core.cache import Cache
from onnxprune.core.errors import InputError
from onnxprune.core.execution import in_this_process, share
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.reconstruction.curves import Original, Variant, curve, interpolate
from onnxprune.importance.reconstruction.elimination import Elimination, EliminationTask, eliminate
from onnxprune.importance.reconstruction.energy import eliminate_by_energy
from onnxprune.importance.reconstruction.moments import Statistics, collect
from onnxprune.importance.reconstruction.recurrent import RecurrentStatistics, collect_recurrent
from onnxprune.ops.linear import Recurrence
from onnxprune.outputs.divergence import Reference
from onnxprune.outputs.padding import real_positions
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.sampling import sampling_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.branches import branches
from onnxprune.structure.complete import completed
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
_MOST_MEASURED = 512
_LEAST_MEASURED = 16
_MOST_MACS = 8e12  # multiply-adds that all damage curves may take; fewer rows measure them in a large network
_MOST_PENDING = 32  # curves handed out at a time: each takes the weights of its variants along
_WIDTHS = (3 / 4, 1 / 2, 1 / 4)
_NARROW = 1 / 8


def score(context: ScoreContext) -> Scores:
    """Score every group by how well its units can be replaced; see the description of the package.

    Raises:
        InputError: there are no calibration rows, or numbers overflow on them.
        ModelError: onnxruntime cannot run the model.
    """
    if context.rows is None or len(context.rows.rows) == 0:
        raise InputError("--importance reconstruction needs calibration inputs: give --data")
    fit, measured = context.rows.fit, context.rows.curves
    plan = _plan(context)
    rows = min(len(measured), _measured_rows(context, plan.whole))
    measured = measured.take(np.linspace(0, len(measured) - 1, rows).astype(np.int64))  # they may be sorted by class
    cache = Cache(None)
    if context.run.cache is not None:
        options = {"seed": context.run.seed, "importance": "reconstruction", "groups": _groups(context)}
        options |= {"whole": sorted(plan.whole)} | ({"narrow": True} if context.narrow else {})
        options |= {"outputs": context.outputs.kinds, "weights": context.outputs.weights}
        options |= provider_entry(context.run.provider)
        options |= {"roles": context.rows.roles.tobytes()}
        cache = Cache(context.run.cache, fingerprint(context.model, context.rows.rows, options))
    results, statistics = _eliminate(context, plan, fit, cache)
    others = [group for group in context.analysis.groups if group.name not in results]
    results |= eliminate_by_energy(context, others, fit)
    damages = _damages(context, plan, results, statistics, measured, cache)
    scores = []
    for group in context.analysis.groups:
        elimination = results[group.name]
        least = max(float(elimination.errors[0]), 1e-30)
        by_position = np.zeros(len(group))
        by_position[elimination.order] = np.sqrt(elimination.errors[:-1][::-1] / least)
        damage = damages[group.name] ** _JOINT
        whole = group.name in plan.whole and bool(np.isfinite(damage[0]))
        scores.append(GroupScore(group.name, elimination.order, np.clip(by_position, 0, 1), damage, whole=whole))
    return Scores(tuple(scores), powers=tuple(power / _JOINT for power in _OTHER_JOINT))


def _measured_rows(context: ScoreContext, whole: Collection[str]) -> int:
    """Number of rows to measure damage on. Each row costs half a run for every width of every group."""
    macs = count_costs(context.model, context.analysis).macs
    groups = context.analysis.groups
    runs = sum(len(widths(len(g), whole=g.name in whole, narrow=context.narrow)) for g in groups)
    return int(np.clip(_MOST_MACS // max(macs * runs // 2, 1), _LEAST_MEASURED, _MOST_MEASURED))


def widths(units: int, *, whole: bool = False, narrow: bool = False) -> tuple[int, ...]:
    """The widths at which a group's damage is measured, descending.

    Args:
        units: of the group.
        whole: whether the group may go as a whole: then 0 is one of them.
        narrow: whether an eighth of the units, and a single one, are too.
    """
    shares = (*_WIDTHS, _NARROW, 0.0) if narrow else _WIDTHS
    chosen = {max(1, round(units * share)) for share in shares} - {units}
    return tuple(sorted(chosen | ({0} if whole else set()), reverse=True))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is run, its nodes in order, and what contracts with weights of its own, by node.

    Attributes:
        analysis: the original's, with every layer's weight stored.
        schedule: its nodes and layers.
        points: layers by node.
        recurrences: recurrent layers by node.
        shared: by node, the names of the layers that share its weight.
        whole: names of groups that may go as a whole.
    """

    analysis: Analysis
    schedule: Schedule
    points: Mapping[str, FitTarget]
    recurrences: Mapping[str, Recurrence]
    shared: Mapping[str, tuple[str, ...]]
    whole: frozenset[str]

    @property
    def model(self) -> Model:
        """The model that is run."""
        return self.analysis.model

    @property
    def graph(self) -> Graph:
        """Its graph."""
        return self.analysis.graph

    def weights(self, node: str) -> tuple[str, ...]:
        """Weights that a node contracts with; () where it is neither a layer nor recurrent."""
        if node in self.points:
            return (self.points[node].layer.weight,)
        recurrence = self.recurrences.get(node)
        return () if recurrence is None else (recurrence.weight, recurrence.recurrent)

    def together(self, node: str) -> tuple[str, ...]:
        """The nodes that are corrected with a node, itself among them: () unless it is the first."""
        names = self.shared.get(node, (node,))
        return names if names[0] == node else ()

    def input(self, node: str) -> str:
        """What such a node contracts."""
        return self.points[node].layer.input if node in self.points else self.recurrences[node].input


def _plan(context: ScoreContext) -> _Plan:
    analysis = completed(context.analysis)
    schedule = fit_schedule(analysis)
    points = {point.layer.node: point for point in schedule.points}
    whole = {analysis.groups[branch.group].name for branch in branches(analysis)} if context.branches else set()
    alike = [names for names in schedule.shared if len({points[name].bias is None for name in names}) == 1]
    shared = {name: names for names in alike for name in names}
    return _Plan(analysis, schedule, points, {r.node: r for r in analysis.recurrences}, shared, frozenset(whole))


Source = Statistics | RecurrentStatistics
"""A consumer, and where units lie among what it reads."""


def _eliminate(
    context: ScoreContext, plan: _Plan, fit: Dataset, cache: Cache
) -> tuple[dict[str, Elimination], dict[str, Source]]:
    """Eliminate every group's units, as soon as the statistics of all its consumers are known."""
    analysis, run = plan.analysis, context.run
    feeds = batch_feeds(plan.model, plan.graph, fit, analysis.row_bytes)
    replay = Replay(plan.model, plan.schedule.nodes, feeds, run.engine, Room(run.room))
    meaning = read_meaning(analysis, context.outputs)
    sampling = sampling_of(meaning, analysis, feeds, run.engine, lambda names: replay.peek(len(replay.nodes), names))
    # A group with a consumer that is no layer (a product of two activations) is ordered otherwise.
    waiting = {g.name: {*g.consumers} for g in analysis.groups if g.consumers and all(map(plan.weights, g.consumers))}
    used = {node for nodes in waiting.values() for node in nodes}
    statistics: dict[str, Source] = {}
    moments: dict[str, tuple[Moments, ...]] = {}
    futures: list[Future[Elimination]] = []
    nodes = [node.name for node in plan.schedule.nodes if node.name in used]
    for number, node in enumerate(nodes):
        generator = np.random.default_rng([run.seed, number])
        replay.advance(replay.before(node), [plan.input(node)])
        stored = cache.get("moments", node)
        known = None if stored is None else _from_arrays(stored)
        if node in plan.points:
            point = plan.points[node]
            weight = plan.model.constants[point.layer.weight]
            statistics[node], moments[node] = collect(replay, point, analysis, weight, generator, known, sampling)
        else:
            recurrence = plan.recurrences[node]
            statistics[node], moments[node] = collect_recurrent(replay, recurrence, analysis, generator, known)
        if known is None:
            cache.put("moments", node, _as_arrays(moments[node]))
        if not all(np.isfinite(sums.covariance).all() for sums in moments[node]):
            raise InputError(
                f"{context.model.name}: on the calibration inputs the values that {node!r} reads are too large or not "
                "finite; check the scale of the inputs (--mean, --std, --scale), and masks that leave a row nothing"
            )
        for group in analysis.groups:
            if node in waiting.get(group.name, ()):
                waiting[group.name].remove(node)
                if not waiting[group.name]:
                    task = _task(context, plan, group, statistics, moments)
                    futures.append(_submitted(context, task, cache))
        needed = {name for group in analysis.groups if waiting.get(group.name) for name in group.consumers}
        moments = {name: value for name, value in moments.items() if name in needed}
        context.progress("statistics", number + 1, len(nodes))
    results = {}
    for number, future in enumerate(futures):
        result = future.result()
        results[result.group] = result
        context.progress("elimination", number + 1, len(futures))
    return results, statistics


def _as_arrays(moments: Sequence[Moments]) -> dict[str, np.ndarray]:
    """Moments as named arrays."""
    arrays: dict[str, np.ndarray] = {}
    for number, entry in enumerate(moments):
        fields = {"covariance": entry.covariance, "mean": entry.mean, "rows": np.array(entry.rows)}
        arrays |= {f"{number}/{name}": value for name, value in fields.items()}
    return arrays


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Moments]:
    """What `_as_arrays` was given."""
    count = len(arrays) // 3
    return [Moments(arrays[f"{i}/covariance"], arrays[f"{i}/mean"], int(arrays[f"{i}/rows"])) for i in range(count)]


def _groups(context: ScoreContext) -> tuple[tuple[str, bytes], ...]:
    """The prunable groups as plain data, for the cache key."""
    return tuple((group.name, group.units.tobytes()) for group in context.analysis.groups)


def _submitted(context: ScoreContext, task: EliminationTask, cache: Cache) -> "Future[Elimination]":
    """One group's elimination, from the cache or started as a task."""
    stored = cache.get("elimination", task.group)
    if stored is not None:
        future: Future[Elimination] = Future()
        future.set_result(Elimination.from_arrays(task.group, stored))
        return future

    def keep(done: "Future[Elimination]") -> None:
        if not done.cancelled() and done.exception() is None:
            cache.put("elimination", task.group, done.result().arrays())

    future = context.executor.submit(eliminate, task)
    future.add_done_callback(keep)
    return future


def _task(
    context: ScoreContext,
    plan: _Plan,
    group: Group,
    statistics: Mapping[str, Source],
    moments: Mapping[str, Sequence[Moments]],
) -> EliminationTask:
    consumers = [
        consumer
        for node in group.consumers
        if (names := plan.together(node))
        for consumer in statistics[node].consumers(
            group, tuple(pooled(parts) for parts in zip(*(moments[name] for name in names), strict=True))
        )
    ]
    wanted = widths(len(group), whole=group.name in plan.whole, narrow=context.narrow)
    return EliminationTask(group.name, tuple(consumers), wanted, _RIDGE)


def _damages(
    context: ScoreContext,
    plan: _Plan,
    results: Mapping[str, Elimination],
    statistics: Mapping[str, Source],
    data: Dataset,
    cache: Cache,
) -> dict[str, np.ndarray]:
    """Each group's damage curve, measured on `data`."""
    analysis, run = context.analysis, context.run
    meaning = read_meaning(analysis, context.outputs)
    feeds = batch_feeds(plan.model, plan.graph, data, analysis.row_bytes)
    replay = Replay(plan.model, plan.schedule.nodes, feeds, run.engine, Room(run.room))
    outputs = list(replay.peek(len(replay.nodes), meaning.outputs))
    real = real_positions(plan.model, meaning, feeds.rows, run.engine)
    reference = Reference(meaning, meaning.joined(outputs), real)
    starts = {group.name: _first(group, replay) for group in analysis.groups if _correctable(group, plan)}
    engine = run.engine if in_this_process(context.executor) else run.engine.on_one_thread
    stops = sorted({*starts.values()})
    original = Original(plan.model, plan.schedule.nodes, feeds, reference, engine, stops, run.room)
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
            elimination, stored = results[group.name], cache.get("damage", group.name)
            future: Future[dict[int, float]] = Future()
            if stored is not None:
                future.set_result(dict(zip(stored["widths"].tolist(), stored["values"].tolist(), strict=True)))
            elif group.name in starts:
                variants = _variants(group, analysis, plan, elimination, statistics)
                future = context.executor.submit(curve, handle, starts[group.name], variants)
            else:
                whole = group.name in plan.whole
                future.set_result(_masked_damage(group, context, elimination, reference, feeds.rows, whole=whole))
            pending.append((group.name, future))
            finish(_MOST_PENDING)
        finish(0)
    return damages


def _first(group: Group, replay: Replay) -> int:
    return min((replay.before(node) for node in group.consumers), default=0)


def _correctable(group: Group, plan: _Plan) -> bool:
    """Whether all consumers have weights that can be corrected."""
    weights = [plan.weights(node) for node in group.consumers]
    own = all(
        plan.graph.reads(name) == 1
        for node, names in zip(group.consumers, weights, strict=True)
        if node not in plan.shared
        for name in names
    )
    return bool(weights) and all(weights) and own


def _masked_damage(
    group: Group,
    context: ScoreContext,
    elimination: Elimination,
    reference: Reference,
    data: Dataset,
    *,
    whole: bool,
) -> dict[int, float]:
    """Damage of a group at a few widths without any correction, measured with its units set to zero."""
    measured = {}
    meaning = reference.meaning
    for width in widths(len(group), whole=whole, narrow=context.narrow):
        removed = context.analysis.none_removed()
        removed[group.units[elimination.order[: len(group) - width]]] = True
        model = masked(context.analysis, removed)
        outputs = run_model(model, data, meaning.outputs, engine=context.run.engine, row_axes=meaning.row_axes)
        measured[width] = reference.usual(outputs)
    return measured


def _variants(
    group: Group, analysis: Analysis, plan: _Plan, elimination: Elimination, statistics: Mapping[str, Source]
) -> list[Variant]:
    variants = []
    for width, corrected in elimination.corrected.items():
        removed = analysis.none_removed()
        removed[group.units[elimination.order[: len(group) - width]]] = True
        remaining = list(corrected)
        constants: dict[str, np.ndarray] = {}
        for node in group.consumers:
            names = plan.together(node)
            count = statistics[node].count(group) if names else 0
            parts, remaining = remaining[:count], remaining[count:]
            for name in names:
                constants |= statistics[name].constants(group, parts, removed, plan.model.constants)
        variants.append(Variant(width, constants))
    return variants
