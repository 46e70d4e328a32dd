"""Which layer makes which values of an output, behind what moves, scales and bends them one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.outputs.meaning import Part
from onnxprune.outputs.nature import nature
from onnxprune.outputs.rows import row_axis
from onnxprune.outputs.sources import Path
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer

_MOST_FUNCTIONS = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """A layer that makes values of a part.

    Attributes:
        layer: the layer.
        positions: `(P,)` positions of the part whose values it makes.
        places: per axis of its output other than rows and channels, where they lie, `(P,)` each.
        channels: `(columns,)` its output channel that makes each column.
        factor: `(P, columns)` what its values are multiplied by on their way to the next function.
        offset: what is added to them then.
        functions: number of elementwise functions that follow.
    """

    layer: Layer
    positions: np.ndarray
    places: tuple[np.ndarray, ...]
    channels: np.ndarray
    factor: np.ndarray
    offset: np.ndarray
    functions: int


def origins(part: Part, rows: int | None, analysis: Analysis) -> list[Origin]:
    """The layers that make a part's values; none where places are picked that only a run tells.

    Args:
        part: of an output.
        rows: the output's axis of rows.
        analysis: of the model.
    """
    reached = []
    for layer, functions, arrays in _made(part.output, analysis, 0):
        shape = analysis.facts.shapes[layer.output]
        if row_axis(layer.output, analysis) != 0 or shape[0] != analysis.facts.batch:
            continue
        spatial = [axis for axis in range(1, len(shape)) if axis != layer.output_axis]
        named: list[int | str] = ["mask", "factor", "offset", layer.output_axis, *spatial]
        mask, factor, offset, channels, *places = (_of_part(arrays[name], part, rows) for name in named)
        inside = np.flatnonzero(mask.all(axis=1))
        if not len(inside) or (channels[inside] != channels[inside[0]]).any():
            continue
        first = tuple(place[inside, 0] for place in places)
        if any((place[inside] != firsts[:, None]).any() for place, firsts in zip(places, first, strict=True)):
            continue
        reached.append(Origin(layer, inside, first, channels[inside[0]], factor[inside], offset[inside], functions))
    return reached


def _of_part(array: np.ndarray, part: Part, rows: int | None) -> np.ndarray:
    """`(positions, columns)` of an array of the output's shape."""
    first = array[None] if rows is None else np.moveaxis(array, rows, 0)[:1]
    if part.axis == 0:
        flat = first.reshape(-1)
        return flat[:, None] if part.columns is None else flat[None, list(part.columns)]
    moved = np.moveaxis(first, part.axis, -1)
    if part.columns is not None:
        moved = moved[..., list(part.columns)]
    return moved.reshape(-1, moved.shape[-1])


def _made(
    tensor: str, analysis: Analysis, functions: int
) -> Iterator[tuple[Layer, int, Mapping[int | str, np.ndarray]]]:
    """The layers behind a tensor, with arrays of its shape: which of its values, and where in the layer's output."""
    layers = {layer.output: layer for layer in analysis.layers}
    path = Path(tensor, analysis)
    if path.computed or functions > _MOST_FUNCTIONS:
        return
    for source in path.sources():
        shape = analysis.facts.shapes.get(source.tensor)
        if shape is None:
            continue
        at = {axis: path.coordinates(source, axis) for axis in range(len(shape))}
        if source.tensor in layers:
            scales = {"mask": source.mask, "factor": source.factor, "offset": source.offset}
            yield layers[source.tensor], functions, scales | at
            continue
        entry = nature(source.tensor, analysis).entry
        if not entry or analysis.facts.shapes.get(entry) != shape:
            continue
        inside = [np.where(source.mask, at[axis], 0) for axis in range(len(shape))]
        flat = np.ravel_multi_index(inside, shape) if shape else np.zeros(source.mask.shape, int)
        for layer, count, arrays in _made(entry, analysis, functions + 1):
            moved = {name: array.ravel()[flat] for name, array in arrays.items()}
            yield layer, count, {**moved, "mask": source.mask & moved["mask"]}
