"""Measures the damage of pruning one group alone, at a few widths, and interpolates between these.

The model runs from the group's first consumer on, with that consumer's (and later ones') weights corrected and zero
for removed units; weights are inputs of the session, so that one session serves all widths of a group.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.calibration.replay import Replay
from onnxprune.calibration.runner import Runner
from onnxprune.calibration.store import Room
from onnxprune.core.engine import Engine
from onnxprune.core.execution import shared
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.outputs.divergence import Reference


@dataclass(frozen=True, slots=True)
class Variant:
    """One group pruned to one width: the constants that differ from the original's."""

    width: int
    constants: Mapping[str, np.ndarray]


class Original:
    """The original's run, from which all curves are measured; each worker thread goes through it once.

    Attributes:
        model: the original.
        nodes: its nodes in order.
        feeds: the rows, in batches.
        reference: its outputs on all rows.
        engine: threads and execution provider.
        stops: ascending positions where curves start. A run halts at each of them, so that no tensor's last bits depend
            on which curves a worker measures.
        room: bytes of tensors that a run may hold in memory.
    """

    def __init__(
        self,
        model: Model,
        nodes: Sequence[Node],
        feeds: Sequence[Mapping[str, np.ndarray]],
        reference: Reference,
        engine: Engine,
        stops: Sequence[int],
        room: float,
    ) -> None:
        self.model, self.nodes, self.feeds, self.reference = model, nodes, feeds, reference
        self.engine, self.stops, self.room = engine, stops, room
        self._local = threading.local()

    def __reduce__(self) -> tuple[type["Original"], tuple[object, ...]]:
        """Pickles without the run; a worker process starts its own."""
        given = (self.model, self.nodes, self.feeds, self.reference, self.engine, self.stops, self.room)
        return Original, given

    def at(self, start: int) -> Replay:
        """This thread's run, advanced to `start`."""
        replay: Replay | None = getattr(self._local, "replay", None)
        if replay is None or replay.done > start:
            replay = Replay(self.model, self.nodes, self.feeds, self.engine, Room(self.room))
            self._local.replay = replay
        for stop in self.stops:
            if stop <= start:
                replay.advance(stop)
        return replay


def curve(handle: Any, start: int, variants: Sequence[Variant]) -> dict[int, float]:
    """Measure one group's damage curve in a worker; `handle` shares an `Original`."""
    original: Original = shared(handle)
    return measure_curve(original.at(start), variants, original.reference, original.engine)


def measure_curve(
    replay: Replay, variants: Sequence[Variant], reference: Reference, engine: Engine
) -> dict[int, float]:
    """Output divergence of each variant; the run must stand before the first node that reads a changed constant.

    Args:
        replay: the original model in the middle of its run.
        variants: what to measure.
        reference: the original's outputs on all rows.
        engine: threads and execution provider.
    """
    changed = list(dict.fromkeys(name for variant in variants for name in variant.constants))
    left = replay.nodes[replay.done :]
    made = {name for node in left for name in node.outputs}
    meaning = reference.meaning
    later = [name for name in meaning.outputs if name in made]  # what is done already stays as it is
    if not later:
        return dict.fromkeys((variant.width for variant in variants), 0.0)
    part = subgraph(replay.model, needed_nodes(left, later), replay.batches[0], later, changed)
    runner = Runner(part, later, engine=engine)
    inputs = [value.name for value in part.proto.graph.input]
    divergences = {}
    for variant in variants:
        values = {name: variant.constants.get(name, replay.model.constants[name]) for name in changed}
        results = [
            runner.run_feed({name: values[name] if name in values else known[name] for name in inputs})
            for known in replay.batches
        ]
        outputs = {**reference.outputs, **meaning.joined(results, later)}
        divergences[variant.width] = _told(reference.usual(outputs))
    return divergences


def _told(divergence: float) -> float:
    """Three digits: more of them are noise of the rows, and the last ones of the arithmetic.

    The allocation program has many answers that are nearly as good as the best. Which of them it gives must not depend
    on the order in which a graph puts out or sums up the same values.
    """
    return float(f"{divergence:.3g}")


def interpolate(errors: np.ndarray, measured: Mapping[int, float]) -> np.ndarray:
    """The damage at every width, interpolated between measured widths along the reconstruction error.

    Between two measured widths the damage grows linearly with the error on a logarithmic scale of both, that is as a
    power of it, which is what measured curves look like; beyond the last one it grows in proportion.

    Args:
        errors: `(n + 1,)` reconstruction error per kept width, non-increasing.
        measured: damage per measured width; infinite where outputs were not finite, which says nothing of other
            widths.

    Returns:
        `(n + 1,)` damage, 0 at full width.
    """
    n = len(errors) - 1
    widths = sorted((width for width in measured if width < n and np.isfinite(measured[width])), reverse=True)
    endless = [width for width in measured if not np.isfinite(measured[width])]
    if not widths:
        damage = np.array(errors, dtype=np.float64)
        damage[endless] = np.inf
        return damage
    tiny = 1e-12
    levels = np.maximum(np.array([measured[w] for w in widths]), tiny)
    levels = np.maximum.accumulate(levels)
    anchors = np.maximum.accumulate(np.maximum(errors[widths], tiny))
    damage = np.zeros(n + 1)
    for width in range(n):
        error = max(float(errors[width]), tiny)
        if width >= widths[0]:
            damage[width] = levels[0] * min(1.0, error / anchors[0])
        elif width <= widths[-1]:
            damage[width] = levels[-1] * max(1.0, error / anchors[-1])
        else:
            damage[width] = np.exp(np.interp(np.log(error), np.log(anchors), np.log(levels)))
    damage[endless] = np.inf
    return damage
