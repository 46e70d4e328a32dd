"""Finds the channels that must be removed together, by following channels from node to node through the graph.

Each operator's handler (`onnxprune.ops`) says how channels pass through its node; units and groups are made from that.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from onnxprune.core.results import NotPruned
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node, named_failures, read_graph
from onnxprune.graph.operators import OpenShapes
from onnxprune.graph.separate import separated
from onnxprune.graph.shapes import Facts
from onnxprune.graph.sizes import LONGEST_AXIS, Given, fitting, given_sizes
from onnxprune.graph.widen import widened
from onnxprune.ops import handler_of
from onnxprune.ops.base import OpHandler
from onnxprune.ops.labels import FIXED, Freeze, Ids, Labels, Place, classes, tensors_of
from onnxprune.ops.linear import Product, Recurrence
from onnxprune.ops.traits import ChannelUse
from onnxprune.runtime.facts import gather_facts
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.operations import find_operations, name_kept_channels
from onnxprune.structure.units import Group, Layer, Mask, as_stored

# Analyses of one model at most, each with other choices (heads, or positions within a head).
_MOST_TURNS = 4


def analyze(model: Path | str | bytes | onnx.ModelProto | Model, input_shapes: Given | None = None) -> Analysis:
    """Find what can be pruned in a model, what cannot and why, and what each layer costs.

    Args:
        model: a path, the bytes of a file, a protobuf or a loaded model.
        input_shapes: shapes of inputs that the file leaves open; guessed where absent.

    Raises:
        InputError: the file cannot be read, or a shape does not fit it.
        ModelError: the model is invalid.

    Example:
        ```python
        analysis = onnxprune.analyze("model.onnx")
        for item in analysis.not_pruned:
            print(item.tensor, item.reason)
        ```
    """
    loaded, given = load(model), input_shapes or {}
    with fitting(given):
        return analyse(loaded, given_sizes(loaded, given))


def analyse(model: Model, input_shapes: OpenShapes | None = None) -> Analysis:
    """Analyse a model that is loaded already; see `analyze`."""
    model = separated(
        widened(model, converts=lambda operator: operator in handler_of(operator).converts),
        is_view=lambda operator: handler_of(operator).is_view,
        is_alias=lambda operator: operator in handler_of(operator).aliases,
    )
    graph = read_graph(model)
    facts = gather_facts(model, graph, input_shapes)
    return _analysed(model, graph, facts, _best_labels(model, graph, facts))


def _best_labels(model: Model, graph: Graph, facts: Facts) -> Labels:
    """Follow all channels; where all that a choice follows must stay, take the next one, if that frees more.

    Reshape, for one, splits channels into heads and the positions within a head, and can follow one of these.
    """
    choices: dict[Place, int] = {}
    best, most = None, -1
    for _ in range(_MOST_TURNS):
        tried = _place_labels(model, graph, facts, choices)
        fixed = classes(tried.count, tried.ties, [ids for ids, _ in tried.freezes]) == FIXED
        free = sum(int(np.count_nonzero(~fixed[first:last])) for first, last, _, _ in tried.origins)
        if best is None or free > most:
            best, most = tried, free
        stuck = {place: count for place, (count, ids) in tried.options.items() if fixed[ids].all()}
        turned = {place: at for place, count in stuck.items() if (at := choices.get(place, 0) + 1) < count}
        if not turned:
            break
        choices |= turned
    assert best is not None
    return best


def _place_labels(model: Model, graph: Graph, facts: Facts, choices: Mapping[Place, int]) -> Labels:
    """Follow all channels, with given choices where there are several ways."""
    labels = Labels(model, facts, partial(_read_positions, graph), choices)
    for node in graph.nodes:
        if all(labels.is_constant(name) and name not in facts.transparent for name in node.outputs if name):
            continue
        handler = handler_of(node.op_type)
        obstacle = _obstacle(node, graph, facts)
        with labels.visiting(node), named_failures(model, node):
            if node.captured:
                labels.freeze_node(node, f"the body of {node.op_type} reads it, and bodies are not followed")
            elif obstacle is not None and handler.follows:
                labels.freeze_node(node, obstacle)
            else:
                handler.couple(node, labels)
                _follow_zeros(node, handler, labels)
            name_kept_channels(node, labels)
    for name in graph.outputs:
        labels.freeze(name, "it is an output of the model", None)
    _freeze_half_shared(labels, graph)
    labels.finish()
    return labels


def _read_positions(graph: Graph, labels: Labels, tensor: str, axis: int) -> np.ndarray | None:
    """Implements `Labels.read_positions`."""
    read = np.zeros(labels.shape(tensor)[axis], bool)
    for node in graph.consumers.get(tensor, ()):
        sole = node.input(0) == tensor and node.inputs.count(tensor) == 1 and tensor not in node.captured
        positions = handler_of(node.op_type).reads(node, axis, labels) if sole else None
        if positions is None:
            return None
        read |= positions
    return None if tensor in graph.outputs else read


def _follow_zeros(node: Node, handler: OpHandler, labels: Labels) -> None:
    """Mark a node's outputs as zero where it only moves values that are zero."""
    sources = handler.moves(node)
    if sources and all(labels.is_zero(node.input(position)) for position in sources):
        for name in filter(None, node.outputs):
            labels.set_zero(name)


def _obstacle(node: Node, graph: Graph, facts: Facts) -> str | None:
    """Why channels cannot be followed through a node, None where they can. Unused outputs do not matter."""
    read = (name for name in node.outputs if name in graph.consumers or name in graph.outputs)
    for name in filter(None, (*node.inputs, *read)):
        if name not in facts.shapes:
            return f"the shape of {name!r} is not known before the model runs"
        if max(facts.shapes[name], default=0) > LONGEST_AXIS:
            return f"{name!r} has more positions along an axis than can be followed"
    return None


def _freeze_half_shared(labels: Labels, graph: Graph) -> None:
    """Keep the channels of a constant that several nodes share, if one of these nodes cannot follow them.

    Cutting such a constant would give the other readers fewer values than they expect. Nodes whose results are stored
    in their place read nothing any more.
    """
    replaced: set[Node] = set()
    for node in reversed(graph.nodes):
        made = [name for name in node.outputs if name and not labels.is_stored(name)]
        if not any(
            name in graph.outputs or not replaced.issuperset(graph.consumers.get(name, (node,))) for name in made
        ):
            replaced.add(node)
    for tensor, axes in labels.arrays.items():
        readers = graph.consumers.get(tensor, ())
        for axis, ids in enumerate(axes):
            if ids is None or len(readers) < 2 or not labels.adapts(tensor, axis):
                continue
            silent = next(
                (n for n in readers if (n.name, tensor, axis) not in labels.placed and n not in replaced), None
            )
            if silent is not None:
                reason = f"{silent} reads {tensor!r} too and does not follow its channels"
                labels.freeze_ids(ids, tensor, reason, silent)


def _analysed(model: Model, graph: Graph, facts: Facts, labels: Labels) -> Analysis:
    unit = classes(labels.count, labels.ties, [ids for ids, _ in labels.freezes])
    tied = classes(labels.count, labels.ties, [])
    arrays: dict[str, tuple[Ids | None, ...]] = {
        tensor: tuple(None if ids is None else unit[ids] for ids in axes) for tensor, axes in labels.arrays.items()
    }
    masks = tuple(Mask(c.node, c.tensor, c.axis, unit[c.ids]) for c in labels.contractions)
    units = int(unit.max()) + 1
    groups = _groups(units, arrays, masks, _producers(labels, unit, units))
    products, recurrences = _products(model, graph, facts, labels)
    operations, uncounted = find_operations(model, graph, facts, labels, unit)
    materialised, dropped = _folded_weights(model, graph, labels)
    stored = {name: array for name, array in model.constants.items() if name not in dropped}
    stored |= {name: facts.folded[name] for name in materialised}
    return Analysis(
        model=model,
        graph=graph,
        units=units,
        groups=groups,
        labels=arrays,
        constants={name: as_stored(array, model.narrow.get(name)) for name, array in stored.items()},
        layers=_layers(model, graph, facts, labels),
        operations=operations,
        products=products,
        recurrences=recurrences,
        masks=masks,
        not_pruned=_not_pruned(labels.freezes, unit),
        total=int(tied.max()),
        facts=facts,
        uses=_uses(model, graph, facts, labels, unit),
        omitted=tuple(sorted(labels.omitted)),
        uncounted=uncounted,
    )


def _producers(labels: Labels, unit: Ids, units: int) -> list[list[tuple[str, str]]]:
    """For each unit, `(node, tensor)` of every layer that computes its channels, in graph order."""
    by_unit: list[list[tuple[str, str]]] = [[] for _ in range(units)]
    for first, last, node, tensor in labels.origins:
        for u in np.unique(unit[first:last]).tolist():
            if u != FIXED:
                by_unit[u].append((node.name, tensor))
    return by_unit


def _groups(
    units: int,
    arrays: Mapping[str, tuple[Ids | None, ...]],
    masks: tuple[Mask, ...],
    producers: list[list[tuple[str, str]]],
) -> tuple[Group, ...]:
    """Put into one group the units with the same consumers, producers and number of appearances on every axis."""
    places = tensors_of({tensor: list(axes) for tensor, axes in arrays.items()})
    # Most axes behind one another have the same units in the same order: what lies on these is looked at once.
    alike_places: dict[bytes, list[int]] = {}
    for number, (_, _, ids) in enumerate(places):
        alike_places.setdefault(ids.tobytes(), []).append(number)
    signature: list[list[tuple[int, int]]] = [[] for _ in range(units)]
    for first, *_ in alike_places.values():
        found, counts = np.unique(places[first][2], return_counts=True)
        for u, count in zip(found.tolist(), counts.tolist(), strict=True):
            signature[u].append((first, count))
    at = {numbers[0]: numbers for numbers in alike_places.values()}
    readers: list[list[str]] = [[] for _ in range(units)]
    for mask in masks:
        for u in np.unique(mask.units).tolist():
            readers[u].append(mask.node)
    members: dict[object, list[int]] = {}
    for u in range(1, units):
        members.setdefault((tuple(signature[u]), tuple(readers[u]), tuple(producers[u])), []).append(u)
    groups, taken = [], set()
    for alike in members.values():
        made = [node for node, _ in producers[alike[0]]]
        numbers = sorted(number for first, _ in signature[alike[0]] for number in at[first])
        name = base = made[0] if made else f"units {alike[0]}"
        suffix = 2
        while name in taken:
            name, suffix = f"{base}#{suffix}", suffix + 1
        taken.add(name)
        groups.append(
            Group(
                name=name,
                units=np.array(alike),
                producers=tuple(dict.fromkeys(made)),
                consumers=tuple(dict.fromkeys(readers[alike[0]])),
                places=tuple(places[number][:2] for number in numbers),
            )
        )
    return tuple(groups)


def _products(
    model: Model, graph: Graph, facts: Facts, labels: Labels
) -> tuple[tuple[Product, ...], tuple[Recurrence, ...]]:
    products: list[Product] = []
    recurrences: list[Recurrence] = []
    for node in _followed(graph, facts, labels):
        handler = handler_of(node.op_type)
        with named_failures(model, node):
            products += handler.products(node, labels)
            recurrence = handler.recurrence(node, labels)
        if recurrence is not None:
            recurrences.append(recurrence)
    return tuple(products), tuple(recurrences)


def _followed(graph: Graph, facts: Facts, labels: Labels) -> Iterator[Node]:
    """The nodes through which channels are followed: not constant, supported, with known shapes."""
    for node in graph.nodes:
        constant = labels.is_constant(node.output())
        if handler_of(node.op_type).follows and not constant and _obstacle(node, graph, facts) is None:
            yield node


def _layers(model: Model, graph: Graph, facts: Facts, labels: Labels) -> tuple[Layer, ...]:
    layers = []
    for node in _followed(graph, facts, labels):
        with named_failures(model, node):
            linear = handler_of(node.op_type).linear(node, labels)
        if linear is None:
            continue
        layers.append(
            Layer(
                node=node.name,
                op_type=node.op_type,
                input=linear.input,
                weight=linear.weight,
                bias=linear.bias,
                output=linear.output,
                in_axis=linear.in_axis,
                out_axis=linear.out_axis,
                input_axis=linear.input_axis,
                output_axis=linear.output_axis,
                group=linear.group,
                window=linear.window,
                transposed=linear.transposed,
                gain=linear.gain,
                bias_gain=linear.bias_gain,
                fused=linear.fused,
            )
        )
    return tuple(layers)


def _uses(model: Model, graph: Graph, facts: Facts, labels: Labels, unit: Ids) -> tuple[tuple[ChannelUse, Ids], ...]:
    """Per use of channels by kernels, the units it concerns; equal uses are listed once."""
    by_units: dict[tuple[ChannelUse, bytes], Ids] = {}
    for node in _followed(graph, facts, labels):
        if not all(labels.is_labelled(name) for name in node.outputs if name):
            continue
        with named_failures(model, node):
            uses = tuple(handler_of(node.op_type).channel_uses(node, labels))
        for use, ids in uses:
            if ids is not None and unit[ids].any():
                by_units.setdefault((use, unit[ids].tobytes()), unit[ids])
    return tuple((use, units) for (use, _), units in by_units.items())


def _not_pruned(freezes: list[tuple[Ids, Freeze]], unit: Ids) -> tuple[NotPruned, ...]:
    reasons = (
        NotPruned(freeze.tensor, freeze.reason, freeze.node, freeze.limitation)
        for ids, freeze in freezes
        if (unit[ids] == 0).any()
    )
    return tuple(dict.fromkeys(reasons))


def _folded_weights(model: Model, graph: Graph, labels: Labels) -> tuple[set[str], set[str]]:
    """Weights that the graph computes from constants: stored as plain constants once the model is pruned.

    Inputs that removal leaves out are not read either.

    Returns:
        Names that will be stored, and names of constants that no node reads any more.
    """
    stored = {name for name in labels.arrays if labels.is_stored(name)}
    if not stored and not labels.omitted:
        return stored, set()
    dead = {graph.producer[name].name for name in stored if name in graph.producer}
    outputs = set(graph.outputs)

    def is_read(name: str) -> bool:
        return name in outputs or any(
            name in user.captured
            or any(read == name and (user.name, at) not in labels.omitted for at, read in enumerate(user.inputs))
            for user in graph.consumers.get(name, ())
            if user.name not in dead
        )

    for node in reversed(graph.nodes):  # what only dead nodes read is dead too
        made = [name for name in node.outputs if name]
        if any(graph.consumers.get(name) for name in made) and not any(map(is_read, made)):
            dead.add(node.name)
    return stored, {name for name in model.constants if graph.consumers.get(name) and not is_read(name)}
