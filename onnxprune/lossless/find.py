"""Finds units that can be removed without changing the outputs, and moves their effect into other weights.

The effect of a constant unit goes into the biases of its consumers, that of a copy into the weights of its twin.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.layer_matrix import column_positions, from_matrix, to_matrix
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import is_float
from onnxprune.lossless.intervals import Interval, bounds
from onnxprune.lossless.numbering import Numbering
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.fit_targets import FitTarget, fit_schedule
from onnxprune.structure.units import Ids, Mask


@dataclass(frozen=True, slots=True)
class Lossless:
    """The units that can be removed without changing the model's outputs.

    Attributes:
        analysis: that of the original with contributions moved: a model of the same outputs, in which no consumer uses
            the units any more.
        removed: `(units,)` True where a unit can go.
        constant: number of units that have the same value for every input.
        copies: number of units that equal another one for every input.
    """

    analysis: Analysis
    removed: Ids
    constant: int
    copies: int

    @property
    def model(self) -> Model:
        """The model with the units' effect moved elsewhere, so that removing them changes nothing."""
        return self.analysis.model

    @property
    def found(self) -> int:
        """Number of units that were found."""
        return self.constant + self.copies

    @property
    def kinds(self) -> str:
        """How many units of each kind were found, in words."""
        kinds = {"constant for every input": self.constant, "equal to another unit": self.copies}
        return ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)


Places = list[tuple[int, np.ndarray]]
"""Where a unit is used: numbers of uses, and positions in their masks."""


def lossless(analysis: Analysis, among: Ids | None = None) -> Lossless:
    """Find the units that are constant, or copies of other units, for all inputs.

    At least one unit of each group stays.

    Args:
        analysis: the model's.
        among: `(units,)` True where a unit may go; all may by default. Copies go in favour of a unit that may not.
    """
    work = _Work(analysis, np.ones(analysis.units, bool) if among is None else among)
    constant, copies = work.constants(), work.copies()
    changed = work.changed()
    moved = analysis.with_model(analysis.model.with_constants(changed)) if changed else analysis
    return Lossless(moved, work.removed, constant, copies)


@dataclass(frozen=True, slots=True)
class _Use:
    """A place where units are used, and the fit target of the layer there; None where the consumer is no layer."""

    mask: Mask
    point: FitTarget | None


class _Work:
    """Weights and biases while the effect of units is moved."""

    def __init__(self, analysis: Analysis, among: Ids) -> None:
        self.removed = analysis.none_removed()
        self._analysis = analysis
        self._among = among
        self._points = {p.layer.node: p for p in fit_schedule(analysis).points}
        self._uses = [_Use(mask, self._points.get(mask.node)) for mask in analysis.masks]
        self._matrices: dict[str, np.ndarray] = {}
        self._biases: dict[str, np.ndarray] = {}

    def constants(self) -> int:
        """Move constant units into the biases of their consumers, where these have one. Returns their number."""
        known = bounds(self._analysis)
        fixed = [_constants(use, known) for use in self._uses]
        places = self._places([~np.isnan(values).any(axis=0) for values in fixed])
        count = 0
        for group in self._analysis.groups:
            left = len(group)
            for unit in group.units:
                at = places.get(int(unit))
                if at and left > 1 and self._among[unit] and self._fold(at, fixed):
                    self.removed[unit] = True
                    left -= 1
                    count += 1
        return count

    def copies(self) -> int:
        """Add the weights of copied units to those of the unit that they equal. Returns the number of copies."""
        numbers = Numbering(self._analysis).channels
        known = [self._numbers(use, numbers) for use in self._uses]
        places = self._places([_repeated(numbered) for numbered in known])
        count = 0
        for group in self._analysis.groups:
            alike: dict[object, list[int]] = {}
            for unit in map(int, group.units):
                if unit in places and not self.removed[unit]:
                    key = tuple((n, tuple(known[n][where].tolist())) for n, where in places[unit])
                    alike.setdefault(key, []).append(unit)
            for units in alike.values():
                first = next((unit for unit in units if not self._among[unit]), units[0])
                for unit in units:
                    if unit != first and self._among[unit] and self._merge(places[unit], places[first]):
                        self.removed[unit] = True
                        count += 1
        return count

    def changed(self) -> dict[str, np.ndarray]:
        """The new values of the constants that were changed."""
        constants = self._analysis.model.constants
        values = {name: bias.astype(constants[name].dtype) for name, bias in self._biases.items()}
        for node, matrix in self._matrices.items():
            layer = self._points[node].layer
            values[layer.weight] = from_matrix(layer, matrix, constants[layer.weight])
        return values

    def _places(self, fitting: list[np.ndarray]) -> dict[int, Places]:
        """Where each unit is used, for the units all of whose positions qualify.

        Args:
            fitting: per use, `(n,)` True at positions that fit.
        """
        every, used = np.ones(self._analysis.units, bool), self._analysis.none_removed()
        for use, fits in zip(self._uses, fitting, strict=True):
            every[use.mask.units[~fits]] = False
            used[use.mask.units] = True
        every &= used
        by_unit: dict[int, Places] = {}
        for number, use in enumerate(self._uses):
            units = use.mask.units
            for unit in np.unique(units[every[units]]):
                by_unit.setdefault(int(unit), []).append((number, np.flatnonzero(units == unit)))
        return by_unit

    def _fold(self, at: Places, fixed: list[np.ndarray]) -> bool:
        """Move a constant unit's effect into biases; False where a bias is missing or would overflow."""
        biases: dict[str, np.ndarray] = {}
        used: list[tuple[FitTarget, np.ndarray]] = []
        for number, where in at:
            values, point = fixed[number][:, where].reshape(-1), self._uses[number].point
            if not values.any():
                continue
            if point is None or point.bias is None or (step := self._step(point, where, values)) is None:
                return False
            constant = self._analysis.model.constants[point.bias]
            bias = biases.get(point.bias, self._biases.get(point.bias, constant.astype(np.float64)))
            biases[point.bias] = bias + step.reshape(bias.shape)
            if not _can_hold(constant, biases[point.bias]):
                return False
            used.append((point, where))
        self._biases |= biases
        for point, where in used:
            self._matrix(point)[0, column_positions(point.layer, where)] = 0.0
        return True

    def _merge(self, at: Places, into: Places) -> bool:
        """Add a unit's weights to those of another unit; False where the sum would overflow the weight's type."""
        merged: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for (number, where), (_, other) in zip(at, into, strict=True):
            point = self._uses[number].point
            assert point is not None  # it has numbers
            matrix = self._matrix(point)[0]
            columns, target = (column_positions(point.layer, places) for places in (where, other))
            merged.append((matrix, columns, target, matrix[target] + matrix[columns]))
            if not _can_hold(self._analysis.model.constants[point.layer.weight], merged[-1][-1]):
                return False
        for matrix, columns, target, weights in merged:
            matrix[target], matrix[columns] = weights, 0.0
        return True

    def _numbers(self, use: _Use, channels: Mapping[str, tuple[int, np.ndarray]]) -> np.ndarray:
        """`(n,)` number that stands for the values at each position (equal numbers: equal values); -1: unknown."""
        unknown = np.full(len(use.mask.units), -1)
        if use.point is None or not self._is_plain(use.point):
            return unknown
        axis, numbers = channels.get(use.point.layer.input, (-1, unknown))
        return numbers if axis == use.point.layer.input_axis else unknown

    def _step(self, point: FitTarget, places: np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """`(C,)` change of the bias that replaces constant input channels; None where no bias can."""
        window = point.layer.window
        uneven = window is not None and (point.layer.transposed or any(pad > 0 for pad in window.pads))
        if uneven or not point.bias_slope.all() or not self._is_plain(point):
            return None
        kernel = 1 if window is None else int(np.prod(window.kernel))
        columns = self._matrix(point)[0, column_positions(point.layer, places)]
        return point.bias_step(np.repeat(values, kernel) @ columns * point.gain)

    def _is_plain(self, point: FitTarget) -> bool:
        """Whether the layer has one group, and a weight that is read once."""
        weight = self._analysis.model.constants.get(point.layer.weight)
        read_once = self._analysis.graph.reads(point.layer.weight) == 1
        return weight is not None and is_float(weight) and read_once and point.layer.group == 1

    def _matrix(self, point: FitTarget) -> np.ndarray:
        node = point.layer.node
        if node not in self._matrices:
            self._matrices[node] = to_matrix(point.layer, self._analysis.model.constants[point.layer.weight]).copy()
        return self._matrices[node]


def _can_hold(constant: np.ndarray, values: np.ndarray) -> bool:
    """Whether values stay finite in a constant's type (float16 ends at 65504)."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(constant.dtype)).all())


def _constants(use: _Use, known: Mapping[str, Interval]) -> np.ndarray:
    """`(groups, n)` the constant value at each position of a mask, NaN where it is not constant or unknown."""
    layer = None if use.point is None else use.point.layer
    source, axis = (use.mask.tensor, use.mask.axis) if layer is None else (layer.input, layer.input_axis)
    groups = 1 if layer is None or layer.transposed else layer.group
    carried = known.get(source)
    if carried is None or carried.axis != axis:
        return np.full((groups, len(use.mask.units)), np.nan)
    one = (carried.low == carried.high) & np.isfinite(carried.low)
    return np.where(one, carried.low, np.nan).reshape(groups, -1)


def _repeated(numbers: np.ndarray) -> np.ndarray:
    """Whether each number occurs more than once."""
    values, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return np.asarray((counts[inverse] > 1) & (values[inverse] >= 0))
