"""Removes units from a model: cuts every constant along its channel axes, then adjusts attributes that hold sizes.

`masked` is the oracle: removing units must give the outputs that the original gives when their consumers see zero.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.graph.edit import GraphEdit
from onnxprune.graph.model import Model, release
from onnxprune.graph.nodes import named_failures, read_graph
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.cut import Cut, find_cut
from onnxprune.structure.gaps import close_gaps
from onnxprune.structure.rewrite import Rewrite
from onnxprune.structure.shape_arithmetic import keep_shape_arithmetic
from onnxprune.structure.units import Ids


def remove(analysis: Analysis, removed: Ids, cut: Cut | None = None) -> Model:
    """Build the smaller model: without the removed units, and without what only they were used for.

    Where an axis loses all its channels, the layers that contract over it give their bias: constants, which go into
    what follows where that is possible.

    Args:
        analysis: the model's; not changed.
        removed: `(units,)` True where a unit goes.
        cut: the part that is left out, where it is known.

    Returns:
        The smaller model; the given one where nothing is removed.

    Raises:
        ModelError: the mask removes what is fixed, or would leave an axis without channels that the graph needs.
    """
    _check(analysis, removed)
    model, graph = analysis.model, analysis.graph
    if not removed.any():
        return model
    cut = find_cut(analysis, removed) if cut is None else cut
    if cut.problem is not None:
        tensor, axis = _emptied(analysis, removed)
        raise ModelError(
            f"{analysis.name}: removal would leave axis {axis} of {tensor!r} without channels; keep at least one "
            f"({cut.problem})"
        )
    edit = GraphEdit(model, graph)
    folded = analysis.facts.folded
    for tensor in analysis.labels:
        array = model.constants.get(tensor, None if tensor in analysis.facts.transparent else folded.get(tensor))
        if array is not None and tensor not in cut.empty:
            edit.set_value(tensor, analysis.compressed(tensor, array, removed))
            release(array)
            if tensor in folded and tensor in graph.producer:  # the node is replaced, so all its outputs are stored
                for other in graph.producer[tensor].outputs:
                    if other and other not in analysis.labels:
                        edit.set_value(other, folded[other])
    left = [node for node in graph.nodes if node.name not in cut.gone]
    for node in left:
        if not analysis.facts.is_folded(node):
            with named_failures(model, node):
                handler_of(node.op_type).rewrite(node, Rewrite(node, edit, analysis, removed))
    by_name = {node.name: node for node in graph.nodes}
    for name, position in analysis.omitted:
        edit.read_instead(by_name[name], position, "")
    keep_shape_arithmetic(edit, analysis, removed, left)
    close_gaps(edit, analysis, cut)
    changed = frozenset(tensor for tensor, axes in analysis.labels.items() if any(ids is not None for ids in axes))
    smaller = edit.apply(stale=changed | {*cut.constants}, declared=_declared(analysis, removed, cut))
    same = analysis.same_copies(removed)
    copies = {copy: original for copy, original in model.copies.items() if copy in same}
    return replace(smaller, copies=MappingProxyType(copies))


def masked(analysis: Analysis, removed: Ids, part: Model | None = None) -> Model:
    """The original with the removed units set to zero: the oracle, of the same outputs as the pruned model.

    Consumers see zero for removed units, in their weights or in what they read.

    Args:
        analysis: the original's.
        removed: `(units,)` True where a unit goes.
        part: some of its nodes as a model (`graph.subgraph.subgraph`), to be masked instead of the whole.
    """
    model, graph = (analysis.model, analysis.graph) if part is None else (part, read_graph(part))
    first_output = {node.name: next(filter(None, node.outputs)) for node in analysis.graph.nodes if any(node.outputs)}
    edit = GraphEdit(model, graph)
    factors: dict[tuple[str, str], np.ndarray] = {}
    for mask in analysis.masks:
        gone = removed[mask.units]
        if gone.any() and first_output[mask.node] in graph.producer:
            shape = [1] * len(analysis.facts.shapes[mask.tensor])
            shape[mask.axis] = len(gone)
            place = (mask.node, mask.tensor)
            factors[place] = factors.get(place, np.ones(1, bool)) & ~gone.reshape(shape)
    for (name, tensor), keep in factors.items():
        node = graph.producer[first_output[name]]
        array = analysis.value(tensor)
        for position in (at for at, name in enumerate(node.inputs) if name == tensor):
            if array is None or tensor in analysis.facts.transparent:
                edit.multiply_input(node, position, keep, analysis.facts.dtypes[tensor])
            else:
                edit.set_input(node, position, np.where(keep, array, np.zeros((), array.dtype)))
    return edit.apply()


def _declared(analysis: Analysis, removed: Ids, cut: Cut) -> Iterator[onnx.ValueInfoProto]:
    """The declared shapes of tensors with channels, as they are after the removal."""
    for value in analysis.model.proto.graph.value_info:
        axes = analysis.labels.get(value.name, ())
        if value.name in cut.empty or value.name in cut.constants or all(ids is None for ids in axes):
            continue
        smaller = onnx.ValueInfoProto()
        smaller.CopyFrom(value)
        dims = smaller.type.tensor_type.shape.dim
        if len(dims) != len(axes):
            continue
        for dim, ids in zip(dims, axes, strict=True):
            if ids is not None and dim.HasField("dim_value"):
                dim.dim_value = int(np.count_nonzero(~removed[ids]))
        yield smaller


def _check(analysis: Analysis, removed: Ids) -> None:
    if removed.shape != (analysis.units,):
        raise ModelError(f"{analysis.name}: the removal mask has shape {removed.shape}, expected ({analysis.units},)")
    if removed[0]:
        raise ModelError(f"{analysis.name}: unit 0 stands for all fixed channels and cannot be removed")


def _emptied(analysis: Analysis, removed: Ids) -> tuple[str, int]:
    """The first axis without channels, for messages."""
    places = ((tensor, axis, ids) for tensor, axes in analysis.labels.items() for axis, ids in enumerate(axes))
    return next((tensor, axis) for tensor, axis, ids in places if ids is not None and len(ids) and removed[ids].all())
