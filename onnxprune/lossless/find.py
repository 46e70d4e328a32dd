"""Finds units whose removal changes nothing, and moves what they contributed into biases or their copies' weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.columns import column_positions, from_matrix, to_matrix
from onnxprune.graph.fitpoint import FitPoint, schedule
from onnxprune.graph.model import Model
from onnxprune.graph.space import Group, Ids, Mask, PruneSpace
from onnxprune.graph.view import GraphView, is_float
from onnxprune.lossless.intervals import Interval, bounds
from onnxprune.lossless.numbering import Numbering


@dataclass(frozen=True, slots=True)
class Lossless:
    """What can go without any loss.

    Attributes:
        model: the original with contributions moved; to be given to `graph.remove.remove` with `removed`.
        removed: `(units,)` True where a unit goes.
        constant: number of units that have the same value for every input.
        copies: number of units that equal another one for every input.
    """

    model: Model
    removed: Ids
    constant: int
    copies: int


def lossless(model: Model, graph: GraphView, space: PruneSpace) -> Lossless:
    """Find units that are constant or copies of others, for all inputs. At least one unit of each group stays.

    Args:
        model: the model.
        graph: its view.
        space: its analysis.
    """
    work = _Work(model, graph, space)
    counts = [0, 0]
    for kind, contributions in enumerate((work.constants, work.copies)):
        for group in space.groups:
            for unit in group.units:
                left = np.count_nonzero(~work.removed[group.units])
                if left > 1 and not work.removed[unit] and contributions(group, int(unit)):
                    work.removed[unit] = True
                    counts[kind] += 1
    return Lossless(model.with_constants(work.changed()), work.removed, counts[0], counts[1])


class _Work:
    """Weights and biases while contributions move."""

    def __init__(self, model: Model, graph: GraphView, space: PruneSpace) -> None:
        self.removed = space.none_removed()
        self._model = model
        self._graph = graph
        self._points = {p.layer.node: p for p in schedule(graph, space, model.constants).points}
        self._bounds: Mapping[str, Interval] = bounds(graph, space, model.constants)
        self._numbers = Numbering(graph, space, model.constants).channels
        self._matrices: dict[str, np.ndarray] = {}
        self._shifts: dict[str, np.ndarray] = {}
        self._masks: dict[int, list[Mask]] = {}
        self._seen: dict[object, int] = {}
        for mask in space.masks:
            for unit in np.unique(mask.units):
                self._masks.setdefault(int(unit), []).append(mask)

    def constants(self, group: Group, unit: int) -> bool:  # noqa: ARG002 (the signature of `copies`)
        """Move a constant unit into its consumers' biases; False where it is not constant or a bias is missing."""
        shifts: dict[str, np.ndarray] = {}
        for mask in self._masks.get(unit, ()):
            point = self._points.get(mask.node)
            places = np.flatnonzero(mask.units == unit)
            source = mask.tensor if point is None else point.layer.input
            axis = mask.axis if point is None else point.layer.input_axis
            values = self._constant(source, axis, self._channels(point, mask, places))
            if values is None:
                return False
            if not values.any():
                continue
            shift = None if point is None else self._shift(point, places, values)
            if shift is None:
                return False
            shifts[mask.node] = shifts.get(mask.node, 0.0) + shift
        for node, shift in shifts.items():
            self._shifts[node] = self._shifts.get(node, 0.0) + shift
        return bool(self._masks.get(unit))

    def copies(self, group: Group, unit: int) -> bool:
        """Add a unit's weights to those of an earlier unit of the same values; False where there is none."""
        key: list[object] = [group.name]
        points = []
        for mask in self._masks.get(unit, ()):
            point = self._points.get(mask.node)
            known = None if point is None else self._numbers.get(point.layer.input)
            if point is None or known is None or known[0] != point.layer.input_axis or not self._is_plain(point):
                return False
            places = np.flatnonzero(mask.units == unit)
            key.append((mask.node, tuple(int(n) for n in known[1][places])))
            points.append((point, mask, places))
        first = self._seen.setdefault(tuple(key), unit)
        if first == unit or not points:
            return False
        for point, mask, places in points:
            matrix = self._matrix(point)
            target = column_positions(point.layer, np.flatnonzero(mask.units == first))
            matrix[0, target] += matrix[0, column_positions(point.layer, places)]
        return True

    def changed(self) -> dict[str, np.ndarray]:
        """The constants with everything moved."""
        found = {}
        for node, matrix in self._matrices.items():
            layer = self._points[node].layer
            found[layer.weight] = from_matrix(layer, matrix, self._model.constants[layer.weight])
        for node, shift in self._shifts.items():
            point = self._points[node]
            assert point.bias is not None
            bias = found.get(point.bias, self._model.constants[point.bias])
            step = shift * point.slope / point.bias_slope
            found[point.bias] = (bias.astype(np.float64) + step.reshape(bias.shape)).astype(bias.dtype)
        return found

    def _channels(self, point: FitPoint | None, mask: Mask, places: np.ndarray) -> np.ndarray:
        """Input channels of a unit; of every group of a grouped convolution."""
        if point is None or point.layer.group == 1 or point.layer.transposed:
            return places
        return (places[:, None] + len(mask.units) * np.arange(point.layer.group)).reshape(-1)

    def _constant(self, tensor: str, axis: int, channels: np.ndarray) -> np.ndarray | None:
        """`(n,)` the values of channels that have one value, None where one has several."""
        known = self._bounds.get(tensor)
        if known is None or known.axis != axis:
            return None
        low, high = known.low[channels], known.high[channels]
        return low if np.array_equal(low, high) and np.isfinite(low).all() else None

    def _shift(self, point: FitPoint, places: np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """`(C,)` what constant channels add to the layer's output; None where that cannot go into a bias."""
        window = point.layer.window
        uneven = window is not None and (point.layer.transposed or any(pad > 0 for pad in window.pads))
        if uneven or point.bias is None or not point.bias_slope.all() or not self._is_plain(point):
            return None
        kernel = 1 if window is None else int(np.prod(window.kernel))
        columns = self._matrix(point)[0, column_positions(point.layer, places)]
        return np.asarray(np.repeat(values, kernel) @ columns * point.gain)

    def _is_plain(self, point: FitPoint) -> bool:
        """Whether the layer's weight is its own and it has one group."""
        weight = self._model.constants.get(point.layer.weight)
        own = len(self._graph.consumers.get(point.layer.weight, ())) == 1
        return weight is not None and is_float(weight) and own and point.layer.group == 1

    def _matrix(self, point: FitPoint) -> np.ndarray:
        node = point.layer.node
        if node not in self._matrices:
            self._matrices[node] = to_matrix(point.layer, self._model.constants[point.layer.weight]).copy()
        return self._matrices[node]
