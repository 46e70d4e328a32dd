"""The joint program's rows of gates, for the affine form: looked for at a point, written out only where it breaks them.

With the gates of an image, what a gate reads, `r = a - (1 - s) U+`, is affine in all scores. The joint program keeps it
within the bounds of the original network: `L <= r <= 0` where a unit is off, `0 <= r <= U` where it is on, and within
`L` and `U` where bounds do not decide; and the place where a maximum is taken stays the largest. A pass forward through
the network's linear maps, with the gates of each image, tells `r` at any scores; a pass backward from the positions
whose bounds are broken gives their rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.importance.oamip.affine import UNLIMITED, Limits, box_around
from onnxprune.importance.oamip.steps import Activation, LinearStep, Maximum, Step, StepNetwork

_ROWS = 400  # written out at a time
_TOGETHER = 64  # passed backward at once
_FEASIBILITY = 1e-6  # violation that is left, relative to the sizes of the values


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `lower <= matrix s <= upper` in the scores of all units.

    Attributes:
        matrix: `(rows, units)`.
        lower: `(rows,)`.
        upper: `(rows,)`.
        nodes: the operator of each row.
    """

    matrix: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Gate:
    """An activation at the images; arrays are `(n, images)`.

    Attributes:
        low: least value of `r`, -inf where there is no gate.
        high: most, inf where there is none.
        passed: derivative of the result in `r`.
        active: `U+` where a score applies (`U` where no floor cuts negative values off), else 0.
        shift: what the result is more than `passed * r`.
        scale: size of the values, which tolerances refer to.
    """

    low: np.ndarray
    high: np.ndarray
    passed: np.ndarray
    active: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, slots=True)
class _Route:
    """A maximum at the images: the position that each window takes.

    Attributes:
        taken: `(windows, images)` positions.
        others: `(windows, taps)` positions, 0 where `inside` is False.
        inside: `(windows, taps)` whether a position lies in the tensor.
        decided: `(windows, images)` whether bounds of the original say which position is the largest.
    """

    taken: np.ndarray
    others: np.ndarray
    inside: np.ndarray
    decided: np.ndarray


@dataclass(frozen=True, slots=True)
class _Broken:
    """Rows of one step that a point breaks: their positions, images, the values that they bound, and by how much."""

    step: int
    at: np.ndarray
    image: np.ndarray
    tap: np.ndarray
    value: np.ndarray
    excess: np.ndarray

    def worst(self, kinds: np.ndarray) -> "_Broken":
        """Of each kind in each image the row that is broken most."""
        order = np.lexsort((-self.excess, kinds, self.image))
        same = (np.diff(kinds[order]) == 0) & (np.diff(self.image[order]) == 0)
        return self.some(order[np.flatnonzero(np.append(True, ~same)[: len(order)])])

    def some(self, chosen: np.ndarray) -> "_Broken":
        """Some of the rows."""
        parts = (part[chosen] for part in (self.at, self.image, self.tap, self.value, self.excess))
        return _Broken(self.step, *parts)


class GateRows:
    """The rows of all gates of some images.

    Args:
        network: steps to the logits.
        images: per image, values of the network's inputs.
        units: number of units.
        epsilon: half-width of the box around an image that bounds are propagated from.
        limits: of the model's inputs that the box is cut to, by name; others have none.

    Attributes:
        units: number of units.
        gates: number of gates and maxima behind a score.
        open: how many of them the bounds do not decide.
        least: `(units,)` the least score that rows on single scores allow.
    """

    def __init__(
        self,
        network: StepNetwork,
        images: Sequence[Mapping[str, np.ndarray]],
        units: int,
        epsilon: float,
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        self._steps = tuple(part for step in network.steps for part in _without_cap(step))
        self._inputs = {
            name: np.stack([np.asarray(image[tensor], np.float64).ravel() for image in images], axis=1)
            for tensor, name in network.inputs
        }
        self._gates: dict[int, _Gate | _Route] = {}
        self.units = units
        self._sizes: dict[int, int] = {}  # positions of what a gate reads
        self.gates = self.open = 0
        self.least = np.zeros(units)
        self._bound(epsilon, {name: (limits or {}).get(tensor, UNLIMITED) for tensor, name in network.inputs})

    def _bound(self, epsilon: float, limits: Mapping[str, Limits]) -> None:
        """Propagate intervals, and decide gates by them: open ones as they are at the image."""
        boxes: dict[str, tuple[np.ndarray, ...]] = {}
        boxes |= {name: (value, *box_around(value, epsilon, limits[name])) for name, value in self._inputs.items()}
        scored: set[str] = set()
        for number, step in enumerate(self._steps):
            if not isinstance(step, LinearStep):
                self._sizes[number] = len(boxes[step.input][0])
            match step:
                case LinearStep():
                    boxes[step.output] = _linear_box(step, [boxes[name] for name in step.inputs])
                    behind = not scored.isdisjoint(step.inputs)
                case Activation():
                    behind = step.input in scored
                    boxes[step.output] = self._activation_box(number, step, boxes[step.input], behind=behind)
                    behind |= bool(step.units.any())
                case Maximum():
                    behind = step.input in scored
                    boxes[step.output] = self._maximum_box(number, step, boxes[step.input], behind=behind)
            if behind:
                scored.add(step.output)

    def _activation_box(
        self, number: int, step: Activation, box: tuple[np.ndarray, ...], *, behind: bool
    ) -> tuple[np.ndarray, ...]:
        value, lower, upper = box
        capping = np.isfinite(step.cap)
        kink = step.cap if capping else step.floor if np.isfinite(step.floor) else 0.0
        slope = np.broadcast_to(step.slope, step.units.shape)[:, None]
        # The derivatives below and above the kink.
        below = np.zeros_like(slope) if np.isfinite(step.floor) else slope
        above = 0.0 if capping else 1.0
        bent = below != above
        off, on = upper <= kink, (upper > kink) & (lower >= kink)
        passed = ~bent | on | (~off & (value > kink))
        active = np.maximum(upper, 0.0) if np.isfinite(step.floor) else upper  # as the affine form scales `h`
        scored = (step.units > 0)[:, None]
        slopes = np.where(passed, above, below)
        # The joint program's relaxed open gate keeps `r` within its bounds too.
        gate = _Gate(
            low=np.where(bent, np.where(on, kink, lower), -np.inf),
            high=np.where(bent, np.where(off, kink, upper), np.inf),
            passed=slopes,
            active=np.where(scored, active, 0.0),
            shift=(1.0 - slopes) * kink if kink else np.zeros_like(slopes),
            scale=1.0 + np.maximum(np.abs(lower), np.abs(upper)),
        )
        self._gates[number] = gate
        if behind:
            self.gates += value.size
            self.open += int((bent & ~off & ~on).sum())
        else:  # `r >= kink` on the unit's own score alone
            needed = np.where(on & bent & scored & (active > 0), 1.0 - (value - kink) / np.maximum(active, 1e-300), 0.0)
            np.maximum.at(self.least, step.units, np.clip(needed.max(axis=1), 0.0, 1.0))
            self.least[0] = 0.0
        # An open gate is as it is at the image, in bounds as in values: one that is off there passes nothing on.
        ends = [slopes * end + gate.shift for end in (lower, upper)]
        return slopes * value + gate.shift, np.minimum(*ends), np.maximum(*ends)

    def _maximum_box(
        self, number: int, step: Maximum, box: tuple[np.ndarray, ...], *, behind: bool
    ) -> tuple[np.ndarray, ...]:
        inside = step.windows >= 0
        others = np.where(inside, step.windows, 0)
        a, lower, upper = (np.where(inside[:, :, None], part[others], -np.inf) for part in box)
        best = a.argmax(axis=1)
        rows, images = np.indices(best.shape)
        taken = others[rows, best]
        rivals = np.where(np.arange(others.shape[1])[None, :, None] == best[:, None, :], -np.inf, upper)
        decided = lower[rows, best, images] >= rivals.max(axis=1)
        self._gates[number] = _Route(taken, others, inside, decided)
        if behind:
            self.gates += decided.size
            self.open += int((~decided).sum())
        return a.max(axis=1), lower.max(axis=1), upper.max(axis=1)

    def _values(self, scores: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Number of each gate and what it reads: `r` of an activation, the input of a maximum."""
        values = dict(self._inputs)
        for number, step in enumerate(self._steps):
            match step:
                case LinearStep():
                    values[step.output] = _linear(step, [values[name] for name in step.inputs])
                case Activation():
                    gate = self._gates[number]
                    assert isinstance(gate, _Gate)
                    r = values[step.input] - (1.0 - scores[step.units])[:, None] * gate.active
                    values[step.output] = gate.passed * r + gate.shift
                    yield number, r
                case Maximum():
                    route = self._gates[number]
                    assert isinstance(route, _Route)
                    x = values[step.input]
                    values[step.output] = np.take_along_axis(x, route.taken, axis=0)
                    yield number, x

    def _broken(self, scores: np.ndarray) -> Iterator[_Broken]:
        """Rows that scores break: of the positions of one unit in one image the one that is broken most."""
        for number, value in self._values(scores):
            gate, step = self._gates[number], self._steps[number]
            if isinstance(gate, _Gate):
                assert isinstance(step, Activation)
                excess = np.maximum(gate.low - value, value - gate.high) / gate.scale
                at, image = np.nonzero(excess > _FEASIBILITY)
                found = _Broken(number, at, image, np.zeros_like(at), value[at, image], excess[at, image])
                yield found.worst(np.where(step.units > 0, step.units, -np.arange(len(step.units)))[at])
            else:
                ahead = np.take_along_axis(value, gate.taken, axis=0)[:, None] - value[gate.others]
                excess = -ahead / (1.0 + np.abs(value[gate.others]))
                excess = np.where(gate.inside[:, :, None] & gate.decided[:, None], excess, 0.0)
                at, tap, image = np.nonzero(excess > _FEASIBILITY)
                yield _Broken(number, at, image, tap, ahead[at, tap, image], excess[at, tap, image]).worst(at)

    def violation(self, scores: np.ndarray) -> float:
        """The largest violation of a row at `(units,)` scores, relative to the values' size."""
        return max((float(broken.excess.max(initial=0.0)) for broken in self._broken(scores)), default=0.0)

    def at(self, scores: np.ndarray) -> Rows:
        """Rows that `(units,)` scores break, the most broken ones; none where all hold."""
        broken = list(self._broken(scores))
        sizes = np.sort(np.concatenate([one.excess for one in broken] or [np.zeros(0)]))
        least = sizes[-min(len(sizes), _ROWS)] if len(sizes) else np.inf
        chosen = [(one, np.flatnonzero(one.excess >= least)) for one in broken]
        pieces = [
            one.some(rows[first : first + _TOGETHER])
            for one, rows in chosen
            for first in range(0, len(rows), _TOGETHER)
        ]
        parts = [
            Rows(np.zeros((0, self.units)), np.zeros(0), np.zeros(0), ()),
            *(self._written(p, scores) for p in pieces),
        ]
        matrix, lower, upper = (
            np.concatenate(each) for each in zip(*((p.matrix, p.lower, p.upper) for p in parts), strict=True)
        )
        return Rows(matrix, lower, upper, tuple(node for part in parts for node in part.nodes))

    def _written(self, broken: _Broken, scores: np.ndarray) -> Rows:
        """Write broken rows of one step out."""
        at, image = broken.at, broken.image
        step, gate = self._steps[broken.step], self._gates[broken.step]
        count = np.arange(len(at))
        matrix = np.zeros((self.units, len(at)))
        slope = np.zeros((self._sizes[broken.step], len(at)))
        if isinstance(gate, _Gate):
            assert isinstance(step, Activation)
            matrix[step.units[at], count] = gate.active[at, image]
            slope[at, count] = 1.0
            lower, upper = gate.low[at, image], gate.high[at, image]
        else:
            slope[gate.taken[at, image], count] = 1.0
            slope[gate.others[at, broken.tap], count] -= 1.0
            lower, upper = np.zeros(len(at)), np.full(len(at), np.inf)
        assert not isinstance(step, LinearStep)
        self._backward({step.input: slope}, broken.step, image, matrix)
        matrix[0] = 0.0
        rest = broken.value - scores @ matrix
        return Rows(matrix.T.copy(), lower - rest, upper - rest, (step.node,) * len(at))

    def _backward(self, slopes: dict[str, np.ndarray], last: int, image: np.ndarray, matrix: np.ndarray) -> None:
        """Add to `(units, rows)` the derivatives in the scores of what has these slopes, each row at its image."""
        for number in reversed(range(last)):
            step = self._steps[number]
            slope = slopes.pop(step.output, None)
            if slope is None:
                continue
            match step:
                case LinearStep():
                    for name, map_ in zip(step.inputs, step.maps, strict=True):
                        slopes[name] = slopes.get(name, 0.0) + (slope if map_ is None else map_.T @ slope)
                case Activation():
                    gate = self._gates[number]
                    assert isinstance(gate, _Gate)
                    through = slope * gate.passed[:, image]
                    np.add.at(matrix, step.units, through * gate.active[:, image])
                    slopes[step.input] = slopes.get(step.input, 0.0) + through
                case Maximum():
                    route = self._gates[number]
                    assert isinstance(route, _Route)
                    spread = np.zeros((self._sizes[number], slope.shape[1]))
                    np.add.at(spread, (route.taken[:, image], np.arange(slope.shape[1])), slope)
                    slopes[step.input] = slopes.get(step.input, 0.0) + spread


def _without_cap(step: Step) -> Iterator[Step]:
    """The step, or its cap and what comes behind that as two of them: each has one kink."""
    if isinstance(step, Activation) and np.isfinite(step.cap):
        capped = f"{step.output}\0capped"
        yield Activation(step.node, capped, step.input, np.zeros_like(step.units), cap=step.cap)
        step = replace(step, input=capped, cap=np.inf)
    yield step


def _linear(step: LinearStep, operands: Sequence[np.ndarray]) -> np.ndarray:
    """`sum_i maps[i] operands[i] + bias`, of `(n, images)` operands."""
    total = np.repeat(step.bias[:, None], operands[0].shape[1], axis=1)
    for operand, map_ in zip(operands, step.maps, strict=True):
        total += operand if map_ is None else map_ @ operand
    return total


def _linear_box(step: LinearStep, boxes: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Value and interval of a linear step."""
    centre = _linear(step, [(upper + lower) / 2 for _, lower, upper in boxes])
    maps = tuple(None if map_ is None else abs(map_) for map_ in step.maps)
    widths = LinearStep(step.node, step.output, step.inputs, maps, np.zeros_like(step.bias))
    radius = _linear(widths, [(upper - lower) / 2 for _, lower, upper in boxes])
    return _linear(step, [value for value, _, _ in boxes]), centre - radius, centre + radius
