"""The outcome of a run as plain data: what became of each group and layer, and which versions computed it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from onnxprune.core.costs import Costs
from onnxprune.core.plan import PrunePlan
from onnxprune.core.results import (
    GroupResult,
    InputSize,
    LatencyReport,
    LayerCost,
    MetricChange,
    NotPruned,
    ProgramReport,
    RemovedBlock,
    RowUse,
    TimeReport,
)
from onnxprune.core.scores import Scores
from onnxprune.graph.model import Model
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.branches import branches
from onnxprune.structure.heads import head_groups
from onnxprune.structure.units import Ids
from onnxprune.version import __version__

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnx-graphsurgeon", "pyscipopt", "scipy")


@dataclass(frozen=True, slots=True)
class PruneOutcome:
    """Everything a run found out, as plain data; `api.PruneResult` adds how to save it.

    Attributes:
        model: the pruned model.
        plan: which units went.
        source: name of the original (its path, or "model").
        before: costs of the original.
        after: costs of the result, recounted on the result itself.
        metrics: by name; which ones there are follows from what the outputs mean, "relative_error" always is.
        groups: what became of each group.
        layers: costs of each node with multiply-adds, in graph order.
        not_pruned: what stays and why.
        removed_blocks: branches that went as a whole.
        program: the deciding program's status.
        timings: seconds per stage, in order.
        seed: the seed everything random came from.
        versions: of onnxprune and the packages that computed the result.
        settings: the options in force, for the report's "how to reproduce".
        oamip: the paper's program (`--importance oamip` only): objective, terms, images, scores per tensor.
        latency: where there was a latency budget.
        time: the result beside the original; None where it was not measured.
        notes: what the user should know (what the data were, predictions and measurements that differ, ...).
        check: what a written file must pass, in addition to being valid.
        files: the files that rows were read from; those of the model are in `model`.
        original: the model before.
        warnings: losses so heavy that the result may be of no use.
        sizes: the sizes of inputs that the file leaves open, as the run took them.
        confirmed: the metrics on rows that had no part in the choice; empty where there are none.
        rows: how many rows did what; None where there were none.
    """

    model: Model
    plan: PrunePlan
    source: str
    before: Costs
    after: Costs
    metrics: Mapping[str, MetricChange]
    groups: tuple[GroupResult, ...]
    layers: tuple[LayerCost, ...]
    not_pruned: tuple[NotPruned, ...]
    program: ProgramReport
    timings: Mapping[str, float]
    seed: int
    versions: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    oamip: Mapping[str, Any] | None = None
    latency: LatencyReport | None = None
    time: TimeReport | None = None
    notes: tuple[str, ...] = ()
    removed_blocks: tuple[RemovedBlock, ...] = ()
    check: Callable[[Path], None] | None = field(default=None, repr=False, compare=False)
    files: tuple[Path, ...] = field(default=(), repr=False, compare=False)
    original: Model | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()
    sizes: tuple[InputSize, ...] = ()
    confirmed: Mapping[str, MetricChange] = field(default_factory=dict)
    rows: RowUse | None = None


def group_results(
    analysis: Analysis, removed: Ids, scores: Scores | None, steps: Sequence[int] = ()
) -> tuple[GroupResult, ...]:
    """What became of each group: kept and removed units, damage, cost."""
    by_name = {} if scores is None else {s.group: s for s in scores.groups}
    none, heads = analysis.none_removed(), head_groups(analysis)
    results = []
    for group, kept, step in zip(
        analysis.groups, analysis.kept(removed), steps or (1,) * len(analysis.groups), strict=True
    ):
        score = by_name.get(group.name)
        results.append(
            GroupResult(
                name=group.name,
                units=len(group),
                kept=kept,
                producers=group.producers,
                consumers=group.consumers,
                step=step,
                kind="head" if group.name in heads else "channel",
                macs_before=analysis.group_macs(group, none),
                macs_after=analysis.group_macs(group, removed),
                scores=() if score is None else tuple(float(s) for s in score.scores),
                damage=() if score is None else tuple((k, float(score.damage[k])) for k in range(1, len(group) + 1)),
            )
        )
    return tuple(results)


def removed_blocks(analysis: Analysis, removed: Ids) -> tuple[RemovedBlock, ...]:
    """The branches that go as a whole, in graph order."""
    whole = [index for index, group in enumerate(analysis.groups) if removed[group.units].all()]
    whole_branches = [branch for branch in branches(analysis, whole) if branch.nodes]
    names = [node.name for node in analysis.graph.nodes]
    return tuple(
        RemovedBlock(analysis.groups[branch.group].name, tuple(name for name in names if name in branch.nodes))
        for branch in whole_branches
    )


def layer_costs(analysis: Analysis, removed: Ids) -> tuple[LayerCost, ...]:
    """Multiply-adds, parameters and width of each node that has some, before and after."""
    none = analysis.none_removed()
    return tuple(
        LayerCost(
            operation.node,
            operation.op_type,
            analysis.macs(operation, none),
            analysis.macs(operation, removed),
            analysis.params(operation, none),
            analysis.params(operation, removed),
            *(analysis.width(operation, mask) for mask in (none, removed)),
        )
        for operation in analysis.operations
    )


def versions() -> dict[str, str]:
    """Versions of onnxprune and of the packages that its results depend on."""
    by_package = {"onnxprune": __version__}
    for name in _PACKAGES:
        try:
            by_package[name] = package_version(name)
        except PackageNotFoundError:
            continue
    return by_package
