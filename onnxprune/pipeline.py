"""The order of the stages: load, analyse, score, allocate, remove, repair, distil, evaluate; known here only."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx

from onnxprune.allocation.costs import budgets
from onnxprune.allocation.decide import Decision, by_budget, by_threshold
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.config import FinetuneConfig, PreprocessConfig, PruneConfig, Target
from onnxprune.errors import InputError
from onnxprune.evaluation.latency import make_feed
from onnxprune.execution import SerialExecutor
from onnxprune.graph.analysis import analyse, require_understood
from onnxprune.graph.check import RemovalCheck
from onnxprune.graph.cost import measure
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.remove import remove
from onnxprune.graph.shapes import Shape
from onnxprune.graph.space import Ids, PruneSpace
from onnxprune.graph.view import GraphView, view
from onnxprune.importance import WITHOUT_DATA, scorer
from onnxprune.importance.base import Progress, ScoreContext, Scores, no_progress
from onnxprune.result import Costs, GroupResult, LayerCost, MetricChange, ProgramReport, PrunePlan, PruneResult
from onnxprune.version import __version__

Source = Path | str | onnx.ModelProto | Model
DataSource = Any
"""What `calibration.inputs.load_data` takes: a path or other specification, arrays, or a `Dataset`."""

_LOG = logging.getLogger(__name__)
DEFAULT_OAMIP_THRESHOLD = "0.1"
_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnx-graphsurgeon", "pyscipopt", "scipy")


@dataclass(slots=True)
class Clock:
    """Seconds per stage, in order; tells `progress` and the log when a stage begins and ends."""

    progress: Progress = no_progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        began = perf_counter()
        _LOG.info("%s", name)
        self.progress(name, 0, 0)
        try:
            yield
        finally:
            spent = perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.progress(name, 1, 1)
        _LOG.info("%s done in %.2f s", name, spent)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is ready to be scored.

    Attributes:
        model: the original.
        view: its graph.
        space: its analysis.
        data: calibration rows, or None.
        before: the original's costs.
    """

    model: Model
    view: GraphView
    space: PruneSpace
    data: Dataset | None
    before: Costs


def prepare(
    source: Source,
    data: DataSource | None,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    clock: Clock | None = None,
) -> Prepared:
    """Load a model and its calibration data, and analyse it.

    Raises:
        InputError: a file cannot be read, or the data do not fit.
        ModelError: the model cannot be processed.
    """
    clock = clock or Clock()
    with clock.stage("load"):
        model = load(source)
        graph = view(model)
        rows = None
        if data is not None:
            rows = load_data(data, model, graph, preprocess, limit=config.images, seed=config.seed)
    with clock.stage("analyse"):
        space = analyse(model, graph, _input_shapes(rows))
        if config.strict:
            require_understood(space)
        return Prepared(model, graph, space, rows, measure(model, space))


def _input_shapes(data: Dataset | None) -> Mapping[str, Shape] | None:
    """Shapes of one row, which settle symbolic dimensions."""
    if data is None or len(data) == 0:
        return None
    return {name: array.shape for name, array in data.take([0]).feeds().items()}


def score(prepared: Prepared, config: PruneConfig, executor: Executor, progress: Progress = no_progress) -> Scores:
    """Score every group with the scorer that `config.importance` names.

    Raises:
        InputError: the scorer needs calibration data and there is none.
    """
    if prepared.data is None and config.importance not in WITHOUT_DATA:
        raise InputError(
            f"--importance {config.importance} needs calibration inputs: give --data (or --importance magnitude)"
        )
    function = scorer(config.importance)
    return function(
        ScoreContext(prepared.model, prepared.view, prepared.space, prepared.data, config, executor, progress)
    )


def decide(prepared: Prepared, scores: Scores, config: PruneConfig, progress: Progress = no_progress) -> Decision:
    """Choose the units that go, by targets or by threshold.

    Raises:
        InputError: neither is given.
        BudgetError: the budgets cannot be met.
        SolverError: the solver failed.
    """
    threshold = config.threshold
    if threshold is None and not config.targets and config.importance == "oamip":
        threshold = DEFAULT_OAMIP_THRESHOLD
    if config.targets and threshold is not None:
        raise InputError("give either --target or --threshold, not both")
    if not config.targets and threshold is None:
        raise InputError("say how small the model must get, for example --target macs=0.5 (or --max-drop, --threshold)")
    latency = [target for target in config.targets if target.kind == "latency"]
    exact = budgets(prepared.space, [t for t in config.targets if t.kind != "latency"], prepared.before)
    allowed = None
    if latency or config.round_to == "auto":
        from onnxprune.latency.target import by_latency, timed

        whole = timed(prepared.model, prepared.view, prepared.space, config, progress)
        if latency:
            return by_latency(whole, scores, latency, exact, config)
        allowed = whole.fast_widths(config)
    if threshold is not None:
        return by_threshold(prepared.space, scores, threshold, config, allowed=allowed)
    return by_budget(prepared.space, scores, exact, config, allowed=allowed)


def shrink(prepared: Prepared, removed: Ids, config: PruneConfig, clock: Clock, progress: Progress) -> Model:
    """Remove units, repair what remains, and train it towards the original's outputs where asked for."""
    with clock.stage("remove"):
        smaller = remove(prepared.model, prepared.view, prepared.space, removed)
    if config.repair and prepared.data is not None and removed.any():
        from onnxprune.repair import repair

        with clock.stage("repair"):
            smaller = repair(prepared.model, smaller, prepared.space, removed, prepared.data, config, progress)
    if config.distill and prepared.data is not None:
        from onnxprune.repair.finetune import finetune

        training = FinetuneConfig(
            epochs=config.distill, flip=config.flip, shift=config.shift, seed=config.seed, threads=config.threads
        )
        with clock.stage("distill"):
            smaller = finetune(smaller, prepared.data, teacher=prepared.model, config=training, progress=progress).model
    return smaller


def prune(
    model: Source,
    data: DataSource | None = None,
    *,
    evaluation: DataSource | None = None,
    plan: PrunePlan | None = None,
    config: PruneConfig | None = None,
    preprocess: PreprocessConfig | None = None,
    executor: Executor | None = None,
    progress: Progress = no_progress,
    **options: Any,
) -> PruneResult:
    """Make a model smaller.

    Args:
        model: a path, a protobuf or a loaded model; never changed.
        data: calibration inputs: a path, arrays, or a `Dataset`. Labels are not needed.
        evaluation: inputs (with labels, for accuracy) that the metrics are measured on; absent, the calibration rows.
        plan: units to remove, instead of scoring and deciding.
        config: options; `options` override single fields, for example `targets="macs=0.5"`.
        preprocess: how integer images become the model's input.
        executor: where independent tasks run; in this process by default.
        progress: told of steps.
        **options: fields of `PruneConfig`; `targets` may be text.

    Returns:
        The pruned model and everything that was found out.

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
    """
    config = _with_options(config or PruneConfig(), options)
    if config.distill:
        from onnxprune.repair.finetune.network import import_torch

        import_torch()  # before any work
    executor = executor or SerialExecutor()
    clock = Clock(progress)
    prepared = prepare(model, data, config, preprocess or PreprocessConfig(), clock)
    measured_on = prepared.data
    if evaluation is not None:
        with clock.stage("load"):
            measured_on = load_data(evaluation, prepared.model, prepared.view, preprocess or PreprocessConfig())
    scores = None
    if plan is None:
        with clock.stage("score"):
            scores = score(prepared, config, executor, progress)
        with clock.stage("allocate"):
            decision = decide(prepared, scores, config, progress)
        plan = make_plan(prepared.space, decision.removed, config.importance, scores)
    else:
        decision = Decision(plan_mask(prepared.space, plan), ProgramReport("none"), {}, 0.0)
    smaller = shrink(prepared, decision.removed, config, clock, progress)
    return finish(prepared, smaller, decision, plan, scores, measured_on, config, clock)


def finish(
    prepared: Prepared,
    smaller: Model,
    decision: Decision,
    plan: PrunePlan,
    scores: Scores | None,
    measured_on: Dataset | None,
    config: PruneConfig,
    clock: Clock,
) -> PruneResult:
    """Measure the result and put everything together."""
    metrics: Mapping[str, MetricChange] = {}
    if measured_on is not None:
        from onnxprune.evaluation.metrics import compare

        with clock.stage("evaluate"):
            metrics = compare(prepared.model, smaller, measured_on, threads=config.threads)
    latency = decision.latency
    if latency is not None:
        from onnxprune.latency.target import confirmed

        with clock.stage("time"):
            latency = confirmed(latency, prepared.model, smaller)
    return PruneResult(
        model=smaller,
        plan=plan,
        source=prepared.model.name,
        before=prepared.before,
        after=measure(smaller),
        metrics=metrics,
        groups=group_results(prepared.space, decision.removed, scores),
        layers=layer_costs(prepared.space, decision.removed),
        not_pruned=prepared.space.not_pruned,
        program=decision.program if scores is None or scores.program is None else scores.program,
        timings=dict(clock.seconds),
        seed=config.seed,
        versions=versions(),
        settings=dataclasses.asdict(config),
        oamip=None if scores is None else scores.oamip,
        latency=latency,
        check=_check(prepared, decision.removed, config),
        notes=(*decision.notes, *_notes(prepared, measured_on), *(() if scores is None else scores.notes)),
    )


def _check(prepared: Prepared, removed: Ids, config: PruneConfig) -> RemovalCheck:
    """What the written file must pass, on the first calibration row (or random inputs)."""
    return RemovalCheck(
        model=prepared.model,
        graph=prepared.view,
        space=prepared.space,
        removed=removed,
        changed=prepared.data is not None and (config.repair or config.distill > 0),
        feed=None if prepared.data is None else make_feed(prepared.model, data=prepared.data),
    )


def _notes(prepared: Prepared, measured_on: Dataset | None) -> tuple[str, ...]:
    notes = [note for data in (prepared.data, measured_on) if data is not None for note in data.notes]
    if measured_on is not None and measured_on is prepared.data:
        notes.append("metrics were measured on the calibration rows; give --eval for an honest figure")
    return tuple(dict.fromkeys(notes))


def make_plan(space: PruneSpace, removed: Ids, importance: str, scores: Scores | None) -> PrunePlan:
    """The plan that stands for a removal mask."""
    return PrunePlan(
        units={group.name: len(group) for group in space.groups},
        removed={
            group.name: tuple(int(p) for p in removed[group.units].nonzero()[0])
            for group in space.groups
            if removed[group.units].any()
        },
        importance=importance,
        scores={} if scores is None else {s.group: tuple(float(v) for v in s.scores) for s in scores.groups},
    )


def plan_mask(space: PruneSpace, plan: PrunePlan) -> Ids:
    """The removal mask that a plan stands for.

    Raises:
        InputError: the plan belongs to another graph.
    """
    units = {group.name: len(group) for group in space.groups}
    if dict(plan.units) != units:
        odd = sorted(set(plan.units.items()) ^ set(units.items()))[0][0]
        raise InputError(f"the plan was made for another graph: group {odd!r} does not match {space.model}")
    for name, positions in plan.removed.items():
        if name not in units or any(not 0 <= p < units[name] for p in positions) or len(positions) >= units[name]:
            raise InputError(f"the plan removes units of {name!r} that do not exist, or all of them")
    return space.removal(plan.removed)


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


def _with_options(config: PruneConfig, options: Mapping[str, Any]) -> PruneConfig:
    known = {f.name for f in dataclasses.fields(PruneConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; PruneConfig has {', '.join(sorted(known))}")
    changed = dict(options)
    if "targets" in changed:
        given: str | Sequence[str | Target] = changed["targets"]
        items = [given] if isinstance(given, str | Target) else list(given)
        changed["targets"] = tuple(t if isinstance(t, Target) else Target.parse(t) for t in items)
    return dataclasses.replace(config, **changed)
