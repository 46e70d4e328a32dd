"""What became of groups and layers, and which packages computed it."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

from onnxprune.graph.space import Ids, PruneSpace
from onnxprune.importance.base import Scores
from onnxprune.result import GroupResult, LayerCost
from onnxprune.version import __version__

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnx-graphsurgeon", "pyscipopt", "scipy")


def group_results(space: PruneSpace, removed: Ids, scores: Scores | None) -> tuple[GroupResult, ...]:
    """What becomes of each group."""
    by_name = {} if scores is None else {s.group: s for s in scores.groups}
    none = space.none_removed()
    found = []
    for group, kept in zip(space.groups, space.kept(removed), strict=True):
        own = [layer for layer in space.layers if layer.node in group.consumers]
        score = by_name.get(group.name)
        found.append(
            GroupResult(
                name=group.name,
                units=len(group),
                kept=kept,
                producers=group.producers,
                consumers=group.consumers,
                macs_before=sum(space.layer_macs(layer, none) for layer in own),
                macs_after=sum(space.layer_macs(layer, removed) for layer in own),
                scores=() if score is None else tuple(float(s) for s in score.scores),
                damage=() if score is None else tuple((k, float(score.damage[k])) for k in range(1, len(group) + 1)),
            )
        )
    return tuple(found)


def layer_costs(space: PruneSpace, removed: Ids) -> tuple[LayerCost, ...]:
    """Costs of each contracting operator, before and after."""
    none = space.none_removed()
    return tuple(
        LayerCost(
            layer.node,
            layer.op_type,
            space.layer_macs(layer, none),
            space.layer_macs(layer, removed),
            space.layer_params(layer, none),
            space.layer_params(layer, removed),
        )
        for layer in space.layers
    )


def versions() -> dict[str, str]:
    """Versions of onnxprune and of the packages that compute its results."""
    found = {"onnxprune": __version__}
    for name in _PACKAGES:
        try:
            found[name] = package_version(name)
        except PackageNotFoundError:
            continue
    return found
