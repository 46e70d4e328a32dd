"""The first stages: load model and data, analyse the model, find units that can go without loss, score the others."""

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnxprune.allocation.costs import check_layers
from onnxprune.allocation.keep import kept_groups
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.independence import without_batch
from onnxprune.calibration.inputs import MADE_UP, is_made_up, load_data
from onnxprune.calibration.split import RowRoles, split_rows
from onnxprune.calibration.store import give_back_freed
from onnxprune.config import OutputConfig, PreprocessConfig, PruneConfig
from onnxprune.core.clock import Clock, Progress, no_progress
from onnxprune.core.costs import Costs
from onnxprune.core.errors import InputError
from onnxprune.core.execution import TaskExecutor, open_executor
from onnxprune.core.results import InputSize
from onnxprune.core.scores import Scores
from onnxprune.core.text import several
from onnxprune.graph.inputs import fixed_batch, input_specs
from onnxprune.graph.load import Holding, load
from onnxprune.graph.model import Model
from onnxprune.graph.operators import Shape
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.sizes import fitting, given_sizes, input_sizes, rows_a_run
from onnxprune.importance import scorer_row
from onnxprune.importance.base import ScoreContext
from onnxprune.lossless import Lossless, lossless
from onnxprune.outputs.given import check_said
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.settling import told_by_rows
from onnxprune.outputs.telling import finds_things, telling_rows
from onnxprune.runtime.providers import require_provider
from onnxprune.runtime.room import require_room_of
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.costs import count_costs
from onnxprune.structure.coupling import analyse
from onnxprune.structure.refusals import require_prunable, require_understood

Source = Path | str | bytes | onnx.ModelProto | Model | Holding
DataSource = Any
"""What `calibration.inputs.load_data` takes: a path or other specification, arrays, or a `Dataset`."""

# Multiply-adds of the calibration rows above which starting worker processes pays.
_LARGE = 2e11
_SHOWN = 5  # names of groups in a note
_CANDIDATES = 4  # times as many rows as are used are looked at where some tell more than others
_MOST_ROWS = 1000  # calibration rows, unless the user says otherwise


@dataclass(frozen=True, slots=True)
class Prepared:
    """A loaded and analysed model, ready to be scored.

    Attributes:
        analysis: the original's.
        rows: calibration rows and what each is for, or None.
        before: the original's costs.
        lossless: the units that can go without loss, but for kept groups.
        sizes: the sizes of inputs that the file leaves open.
        outputs: what the user says of the outputs, and what the rows tell.
    """

    analysis: Analysis
    rows: RowRoles | None
    before: Costs
    lossless: Lossless
    sizes: tuple[InputSize, ...] = ()
    outputs: OutputConfig = field(default_factory=OutputConfig)

    @property
    def model(self) -> Model:
        """The original model."""
        return self.analysis.model

    @property
    def data(self) -> Dataset | None:
        """The calibration rows, but those that are for the report alone."""
        return None if self.rows is None else self.rows.data

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the inputs that everything is counted and, without data, timed at."""
        shapes = self.analysis.facts.shapes
        return {name: shapes[name] for name in self.analysis.graph.inputs if name in shapes}


def prepare(
    source: Source,
    data: DataSource | None,
    config: PruneConfig,
    preprocess: PreprocessConfig,
    clock: Clock | None = None,
    *,
    reports: bool = False,
) -> Prepared:
    """Load a model and its calibration data, analyse it, and find units whose removal changes nothing.

    Args:
        source: the model.
        data: calibration rows.
        config: options.
        preprocess: how integer images become the model's input.
        clock: times of the stages.
        reports: whether the report's figures are of calibration rows too.

    Raises:
        InputError: a file cannot be read, or the data do not fit.
        ModelError: the model cannot be processed.
    """
    clock = clock or Clock()
    scorer = scorer_row(config.importance)  # an unknown one is refused before any work
    require_provider(config.engine.provider)
    if config.memory is not None:
        give_back_freed()
    with clock.stage("load"):
        model = load(source)
        known, rows = given_sizes(model, config.shapes), None
        if data is not None:
            with fitting(config.shapes):
                limit = config.images or most_rows(data)
                rows = load_data(data, model, preprocess, limit=limit, seed=config.seed, known=known)
            model = without_batch(model, rows)
            known = given_sizes(model, config.shapes, rows.shapes)
    with clock.stage("analyse"):
        with fitting(config.shapes):
            analysis = analyse(model, known)
        if config.strict:
            require_understood(analysis)
        require_prunable(analysis)
        batch = rows_a_run(model, known, config.latency.batch) if config.time or config.is_timed else 1
        require_room_of(model, analysis.graph, analysis.facts, batch)
        check_said(config.outputs, analysis)
        before = count_costs(model, analysis)
        kept = kept_groups(analysis, config.keep)
        check_layers(analysis, config.targets)
    if rows is not None and len(rows) == limit and not is_made_up(data):
        with clock.stage("load"):
            rows = _telling(analysis, rows, data, config, preprocess)
    outputs = config.outputs
    if rows is not None and not config.lossless and not scorer.needs_classes:
        outputs, notes = told_by_rows(outputs, analysis, rows, config.engine)
        rows = replace(rows, notes=(*rows.notes, *notes))
    if rows is not None and _drops_rows(analysis, outputs):
        rows = replace(rows, whole=True)
    with clock.stage("lossless"):
        without_loss = analysis.none_removed()
        for group in analysis.groups:
            without_loss[group.units] = group.name not in kept
        split = None if rows is None else split_rows(rows, reports=reports, seed=config.seed)
        prepared = Prepared(analysis, split, before, lossless(analysis, without_loss), outputs=outputs)
        row = None if rows is None or is_made_up(rows.source) else rows.shapes
        return replace(prepared, sizes=input_sizes(model, prepared.shapes, config.shapes, row))


def _drops_rows(analysis: Analysis, outputs: OutputConfig) -> bool:
    """Whether a compared output has no axis of rows where there is a single one, though the inputs have.

    So with all axes of size 1 squeezed away at the end, as some exporters write it: rows are run one by one then.
    """
    specs = input_specs(analysis.model)
    batched = all(spec.batched for spec in specs) and fixed_batch(specs) in (None, 1)
    axes = read_meaning(analysis, outputs).row_axes if batched else {}
    nodes, inputs = analysis.graph.nodes, {*analysis.graph.inputs}
    return any(
        axis is None and any(not inputs.isdisjoint(node.reads) for node in needed_nodes(nodes, [name]))
        for name, axis in axes.items()
    )


def _telling(
    analysis: Analysis, rows: Dataset, data: DataSource, config: PruneConfig, preprocess: PreprocessConfig
) -> Dataset:
    """The rows, or as many others of the same data where they hold more and seldom show what the model finds."""
    meaning = read_meaning(analysis, config.outputs)
    if not finds_things(meaning):
        return rows
    model, limit = analysis.model, len(rows)
    more = load_data(data, model, preprocess, limit=_CANDIDATES * limit, seed=config.seed)
    if len(more) == limit:
        return rows
    return telling_rows(model, meaning, more, limit, config.engine, config.seed) or rows


def most_rows(data: DataSource) -> int:
    """How many rows are used at most where the user does not say: what is made up tells no more with more rows."""
    return MADE_UP[data] if is_made_up(data) else _MOST_ROWS


def score(
    prepared: Prepared, config: PruneConfig, executor: Executor | None = None, progress: Progress = no_progress
) -> Scores:
    """Score every group with the scorer that `config.importance` names. Units without effect are removed first.

    Args:
        prepared: the model and its data.
        config: options.
        executor: where independent tasks run; by default where `config.executor` says.
        progress: told of steps.

    Raises:
        InputError: the scorer needs calibration data and there is none.
    """
    row = scorer_row(config.importance)
    if prepared.data is None and row.needs_data:
        raise InputError(
            f"--importance {config.importance} needs calibration inputs: give --data, a few hundred rows; where there "
            "are none, --importance magnitude goes by the weights alone"
        )
    function = row.load()
    work = prepared.before.macs * (0 if prepared.data is None else len(prepared.data))
    large = work > _LARGE and config.memory is None  # the bound is on all memory, several processes share nothing
    with nullcontext(executor) if executor else open_executor(config.executor, config.workers, large=large) as chosen:
        tasks, exact = TaskExecutor(chosen), prepared.lossless
        scores = function(
            ScoreContext(
                exact.analysis,
                prepared.rows,
                config.run,
                tasks,
                progress,
                exact.removed,
                config.oamip,
                config.outputs,
                config.branches,
                config.is_timed,
            )
        ).finite()
    if scores.unjudged:
        scores = replace(scores, notes=(*scores.notes, _unjudged(scores, config.importance)))
    return (
        scores.with_free([group.units for group in prepared.analysis.groups], exact.removed) if exact.found else scores
    )


def _unjudged(scores: Scores, importance: str) -> str:
    names = [repr(name) for name in scores.unjudged]
    shown = ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
    return (
        f"--importance {importance} cannot judge {several(len(names), 'group')}, which keep all units: {shown}; "
        "another --importance may"
    )
