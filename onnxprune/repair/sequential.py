"""Repairs a pruned model: refits its layers one after the other so that they match the original network's values.

At each layer the inputs are those that the pruned and so far repaired network makes, and the target is the original's
value at the layer's fit target (`structure.fit_targets`), so that a layer also makes up for what earlier layers and
other branches could not.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np

from onnxprune.calibration.fingerprint import content, fingerprint, provider_entry
from onnxprune.calibration.layer_matrix import to_matrix
from onnxprune.calibration.recurrent_matrix import GateMatrices, Sequences
from onnxprune.calibration.replay import Feeds, Replay, batch_feeds
from onnxprune.calibration.split import Fitting
from onnxprune.calibration.store import Room
from onnxprune.config import OutputConfig
from onnxprune.core.cache import Cache
from onnxprune.core.clock import Progress, no_progress
from onnxprune.core.engine import RunOptions
from onnxprune.core.execution import ONE_THREAD
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node
from onnxprune.graph.order import asked_late
from onnxprune.ops.linear import Recurrence
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.sampling import sampling_of
from onnxprune.repair.change import can_refit, corrected
from onnxprune.repair.effort import FULL, Effort
from onnxprune.repair.last_layers import known_for_scores, refit_scores
from onnxprune.repair.layer_fit import SAME, Original, layer_rows, refit_layers
from onnxprune.repair.middle import Middle
from onnxprune.repair.pair_fit import fit_pair, steps_for
from onnxprune.repair.pairs import Pair, PairFit, find_pairs, joined, pair_rows, read_by, rows_in
from onnxprune.repair.recurrent import RecurrentRows, refit_recurrent, refittable
from onnxprune.repair.ridge import joined as joined_rows
from onnxprune.repair.shifts import Shift, find_shifts, shifted
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.complete import completed
from onnxprune.structure.coupling import analyse
from onnxprune.structure.cut import find_cut
from onnxprune.structure.fit_targets import FitTarget, fit_schedule
from onnxprune.structure.units import Ids

_PAIR_ROWS = 65536
_WIDE = 1 << 17  # elements of a weight from which its products gain from several threads


def repair(
    analysis: Analysis,
    pruned: Model,
    removed: Ids,
    rows: Fitting,
    run: RunOptions,
    progress: Progress = no_progress,
    outputs: OutputConfig | None = None,
    effort: Effort = FULL,
) -> Model:
    """Refit the layers of a pruned model to the original's values on calibration data (least squares, no labels).

    Args:
        analysis: of the model before removal.
        pruned: the model after removal.
        removed: `(units,)` mask of what was removed.
        rows: calibration rows to fit to and to choose by.
        run: seed, threads, memory and the folder where fitted layers are kept.
        progress: told of layers done.
        outputs: what the user says of outputs.
        effort: what the repair may take.

    Returns:
        The pruned model with other weights and biases; the same where nothing differs from the original.

    Raises:
        ModelError: onnxruntime cannot run the models.
    """
    analysis = completed(analysis)
    original, graph = analysis.model, analysis.graph
    plain = analyse(pruned, {name: analysis.facts.shapes[name] for name in graph.inputs})
    smaller = completed(plain)
    ahead = fit_schedule(analysis, chains=True)
    plan = fit_schedule(smaller, chains=True)
    # Sizes that removal wrote into the pruned model may hold for a fixed batch alone.
    feeds = min(
        (
            batch_feeds(some.model, some.graph, rows.fit, analysis.row_bytes, rows.choose if rows.apart else None)
            for some in (analysis, smaller)
        ),
        key=lambda feeds: feeds.size,
    )
    known = {point.layer.node: point.tensor for point in ahead.points}
    # Behind a branch that went, a layer may be held against what the original has further on.
    further = graph.producer if find_cut(analysis, removed).gone else {}
    points = [point for point in plan.points if known.get(point.layer.node) == point.tensor or point.tensor in further]
    alone = [point for point in points if can_refit(point, plain)]
    found = {point.layer.node: point for point in points if can_refit(point, plain, shared=True)}
    shared = {names[0]: [found[n] for n in names] for names in plan.shared if found.keys() >= {*names}}
    together = {point.layer.node for members in shared.values() for point in members}
    chosen = together | {point.layer.node for point in alone}
    points = [point for point in points if point.layer.node in chosen]
    recurrences = refittable(analysis, plain, smaller.recurrences)
    meaning = read_meaning(analysis, outputs)
    scores, made = known_for_scores(meaning, smaller)
    pairs = _worthwhile_pairs(alone, smaller, run, len(feeds.rows), effort)
    # Samples are drawn by the graph's order, so that they do not depend on that of the visits.
    places = {node.name: index for index, node in enumerate(smaller.graph.nodes)}
    in_graph = sorted(points, key=lambda point: places[point.layer.node])
    by_node = {point.layer.node: (position, point) for position, point in enumerate(in_graph)}
    shifts, done = {shift.node.name: shift for shift in find_shifts(analysis, smaller)}, 0
    visits = {name: [shift.node.output()] for name, shift in shifts.items()}
    visits |= {name: _states(before) for name, (_, before) in recurrences.items()}
    visits |= {name: _tensors(point, shared, pairs) for name, (_, point) in by_node.items()}
    late = asked_late(ahead.nodes, [visits[node.name] for node in plan.nodes if node.name in visits])
    reference = Replay(original, ahead.nodes, feeds, run.engine, Room(run.room), {*scores, *late})
    sampling = sampling_of(meaning, analysis, feeds, run.engine, lambda names: reference.peek(len(ahead.nodes), names))
    sweep = _Sweep(
        Replay(smaller.model, plan.nodes, feeds, run.engine, Room(run.room), made),
        Original(reference, analysis, removed, sampling, feeds, effort),
        # Where few positions decide, as in detectors, what a descent gains is at all the others.
        {} if sampling.focus is not None else pairs,
        shared,
        run.seed,
        _cache(pruned, removed, feeds, run, outputs, effort, original),
    )
    nodes = [node for node in plan.nodes if node.name in by_node or node.name in recurrences]
    for node in plan.nodes:
        if node.name in shifts:
            sweep.settle(shifts[node.name])
        if node.name not in by_node and node.name not in recurrences:
            continue
        if node.name in recurrences:
            sweep.visit_recurrent(done, node, *recurrences[node.name])
        else:
            position, point = by_node[node.name]
            wide = pruned.constants[point.layer.weight].size >= _WIDE
            with nullcontext() if wide else ONE_THREAD:
                sweep.visit(position, point)
        done += 1
        progress("repair", done, len(nodes))
    refitted = smaller.with_model(sweep.replay.model)
    targets = {point.layer.node: point for point in alone}
    refit = refit_scores(meaning, refitted, targets, reference, sweep.replay, feeds, effort.scores, run.seed).constants
    before = smaller.model.constants
    return pruned.with_constants({name: refit[name] for name in refit if refit[name] is not before[name]})


def _cache(
    pruned: Model,
    removed: Ids,
    feeds: Feeds,
    run: RunOptions,
    outputs: OutputConfig | None,
    effort: Effort,
    original: Model,
) -> Cache:
    """Where fitted layers are kept; nowhere without a folder."""
    if run.cache is None:
        return Cache(None)
    options = {"seed": run.seed, "pruned": content(pruned), "removed": removed.tobytes()}
    options |= {"outputs": () if outputs is None else outputs.kinds}
    options |= provider_entry(run.provider)
    options |= {"fitted": feeds.first, "effort": str(effort)}
    return Cache(run.cache, fingerprint(original, feeds.rows, options))


class _Sweep:
    """One pass over the layers: refits each one, and where possible a layer together with the layer that reads it."""

    def __init__(
        self,
        replay: Replay,
        reference: Original,
        pairs: Mapping[str, "_Planned"],
        shared: Mapping[str, Sequence[FitTarget]],
        seed: int,
        cache: Cache,
    ) -> None:
        self.replay = replay
        self._reference = reference
        self._pairs = pairs
        self._shared = shared
        self._seed = seed
        self._cache = cache
        self._fitted: set[str] = set()

    def visit(self, number: int, point: FitTarget) -> None:
        """Refit the layer of a fit target, unless it was refitted together with the layer before it."""
        node = point.layer.node
        if node in self._fitted:
            return
        points = self._shared.get(node, (point,))
        # Each fit has its own generator, so that none depends on whether another was kept from an earlier run.
        self._fit_alone(points, np.random.default_rng([self._seed, number]))
        self._fitted.update(other.layer.node for other in points[1:])
        if node in self._pairs:
            planned = self._pairs[node]
            if self._fit_together(planned, np.random.default_rng([self._seed, number, 1])):
                self._fitted.add(planned.pair.consumer.layer.node)

    def visit_recurrent(self, number: int, node: Node, recurrence: Recurrence, original: Recurrence) -> None:
        """Refit a recurrent layer."""
        start, end = self.replay.before(node.name), self._reference.replay.before(original.node) + 1
        if start < self.replay.done:
            return
        self.replay.advance(start)
        self._reference.replay.advance(end, _states(original))
        new_constants = self._kept(recurrence)
        if new_constants is None:
            new_constants = self._refitted_recurrent(
                node, recurrence, original, np.random.default_rng([self._seed, number, 2])
            )
            self._keep(recurrence, new_constants)
        self.replay.model = self.replay.model.with_constants(new_constants)

    def _refitted_recurrent(
        self, node: Node, recurrence: Recurrence, original: Recurrence, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        analysis, constants = self._reference.analysis, self._reference.analysis.model.constants
        batches = zip(self.replay.batches, self._reference.replay.batches, strict=True)
        names = _states(original)
        rows = [
            RecurrentRows(now, Sequences.read(original, {n: before[n] if n in before else constants[n] for n in names}))
            for now, before in batches
        ]
        states = analysis.labels[original.recurrent][2]
        gates = GateMatrices(original, constants)
        kept = np.ones(gates.hidden, bool) if states is None else ~self._reference.removed[states]
        read = original.output in analysis.graph.consumers or original.output in analysis.graph.outputs
        given = (self.replay.model, node, recurrence, gates, kept, rows, self._reference.feeds.first)
        return refit_recurrent(*given, last_only=not read, generator=generator, engine=self.replay.engine)

    def settle(self, shift: Shift) -> None:
        """Give a constant that stands for a branch the value at which the sum has the original's mean."""
        original, position = self._reference.replay, self.replay.before(shift.node.name)
        tensor = shift.node.output()
        if position < self.replay.done:
            return
        self.replay.advance(position)
        original.advance(original.after(tensor), [tensor])
        analysis, removed = self._reference.analysis, self._reference.removed
        batches = zip(original.batches, self.replay.peek(position + 1, [tensor]), strict=True)
        missing = (
            analysis.compressed(tensor, wanted[tensor], removed) - values[tensor]
            for wanted, values in islice(batches, self._reference.feeds.first)
        )
        value = shifted(self.replay.model.constants[shift.constant], missing)
        self.replay.model = self.replay.model.with_constants({shift.constant: value})

    def _fit_alone(self, points: Sequence[FitTarget], generator: np.random.Generator) -> None:
        """Refit a layer, or layers that share their weight."""
        if not self._approach(points[0], *(point.tensor for point in points)):
            return
        new_constants = self._kept(points[0])
        if new_constants is None:
            new_constants = self._refitted(points, generator)
            self._keep(points[0], new_constants)
        self.replay.model = self.replay.model.with_constants(new_constants)

    def _fit_together(self, planned: "_Planned", generator: np.random.Generator) -> bool:
        """Refit the consumer, producer and consumer together, and the consumer again; False where that cannot be."""
        pair = planned.pair
        if not self._approach(pair.producer, pair.consumer.tensor):
            return False
        new_constants = self._kept(pair)
        if new_constants is None:
            new_constants = self._refitted([pair.consumer], generator)
            self.replay.model = self.replay.model.with_constants(new_constants)
            if together := _refit_pair(planned, self.replay, self._reference, generator):
                # Steps of a descent end near the consumer's best weights, not at them.
                self.replay.model = self.replay.model.with_constants(together)
                new_constants |= together | self._refitted([pair.consumer], generator)
            self._keep(pair, new_constants)
        self.replay.model = self.replay.model.with_constants(new_constants)
        return bool(new_constants)

    def _refitted(self, points: Sequence[FitTarget], generator: np.random.Generator) -> dict[str, np.ndarray]:
        rows = [layer_rows(point, self.replay, self._reference, generator, len(points)) for point in points]
        known = [both for both in rows if both is not None]
        if len(known) < len(points):  # a weight is not drawn away from layers that match already
            return {}
        fit, held_out = (joined_rows(parts) for parts in zip(*known, strict=True))
        if fit is None or held_out is None:
            return {}
        return refit_layers(points, self.replay.model, fit, held_out, self._reference.effort.steps)

    def _approach(self, first: FitTarget, *tensors: str) -> bool:
        """Run the pruned model up to a layer, and the original until some tensors are known.

        False where one of them has run further already.
        """
        start = self.replay.before(first.layer.node)
        end = max(self._reference.replay.after(tensor) for tensor in tensors)
        if start < self.replay.done:
            return False
        self.replay.advance(start)
        self._reference.replay.advance(end, tensors)
        return True

    def _kept(self, what: FitTarget | Pair | Recurrence) -> dict[str, np.ndarray] | None:
        """New constants from the cache of an earlier run; None where there are none."""
        stored = self._cache.get("repair", _key(what))
        if stored is None:
            return None
        names, constants = stored.pop("names").tolist(), self.replay.model.constants
        # Types that numpy does not know come back as plain bytes.
        return {name: stored[str(at)].view(constants[name].dtype) for at, name in enumerate(names)}

    def _keep(self, what: FitTarget | Pair | Recurrence, new_constants: Mapping[str, np.ndarray]) -> None:
        arrays = {str(at): array for at, array in enumerate(new_constants.values())}
        self._cache.put("repair", _key(what), {"names": np.array([*new_constants], dtype=str), **arrays})


def _tensors(point: FitTarget, shared: Mapping[str, Sequence[FitTarget]], pairs: Mapping[str, "_Planned"]) -> list[str]:
    """What the original's values of are compared when a layer is visited."""
    layers = shared.get(point.layer.node, (point,))
    ahead = [pairs[layer.layer.node].pair.consumer for layer in layers if layer.layer.node in pairs]
    return [layer.tensor for layer in (*layers, *ahead)]


def _states(recurrence: Recurrence) -> list[str]:
    """What a recurrent layer reads and makes."""
    return [name for name in (recurrence.input, recurrence.output, recurrence.states) if name]


def _key(what: FitTarget | Pair | Recurrence) -> str:
    if isinstance(what, Recurrence):
        return what.node
    if isinstance(what, Pair):
        return f"{what.producer.layer.node} with {what.consumer.layer.node}"
    return what.layer.node


@dataclass(frozen=True, slots=True)
class _Planned:
    """A pair of layers, what lies between them, and in how many steps they are fitted together."""

    pair: Pair
    between: Middle
    steps: int


def _worthwhile_pairs(
    points: Sequence[FitTarget], analysis: Analysis, run: RunOptions, rows: int, effort: Effort
) -> dict[str, _Planned]:
    """The pairs that are small enough to be fitted together."""
    affordable = {}
    for node, pair in find_pairs(points, analysis).items() if effort.pairs else ():
        width = to_matrix(pair.producer.layer, analysis.model.constants[pair.producer.layer.weight]).shape[1]
        if steps := steps_for(pair, width, analysis.facts.shapes[pair.consumer.tensor], rows):
            affordable[node] = _Planned(pair, Middle(pair.between, analysis, run.engine), int(effort.pairs * steps))
    return affordable


def _refit_pair(
    planned: _Planned, replay: Replay, reference: Original, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """New constants of a producer and its consumer; empty where held-out rows do not improve."""
    pair = planned.pair
    producer, consumer = pair.producer, pair.consumer
    parts: tuple[list[PairFit], list[PairFit]] = ([], [])
    rows = 0
    wanted = [*dict.fromkeys(read_by(pair))]
    for index, values in enumerate(replay.peek(replay.after(consumer.tensor), wanted)):
        target = reference.analysis.compressed(
            consumer.tensor, reference.replay.batches[index][consumer.tensor], reference.removed
        )
        drawing = reference.sampling.of_batch(index)
        if index == 0:
            channels = values[producer.layer.input].shape[producer.layer.input_axis]
            rows = min(_PAIR_ROWS, rows_in(pair, channels, target.shape, reference.effort.memory))
        count = max(1, round(rows * reference.feeds.share(index)))
        parts[index >= reference.feeds.first].append(pair_rows(pair, values, target, count, generator, drawing))
    if not parts[0] or not parts[1]:
        return {}
    fit, held_out = joined(parts[0]), joined(parts[1])
    scale = np.abs(fit.target).max(initial=0.0)
    difference = np.abs(fit.target - fit.current).max(initial=0.0)
    if not difference > SAME * scale or not np.isfinite(difference):
        return {}
    weights = replay.model.constants[producer.layer.weight], replay.model.constants[consumer.layer.weight]
    corrections = fit_pair(pair, fit, held_out, planned.between, weights, generator, planned.steps)
    if corrections is None:
        return {}
    return corrected(producer, replay.model, corrections[0]) | corrected(consumer, replay.model, corrections[1])
