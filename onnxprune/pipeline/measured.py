"""The rows that a report's figures are of, and what else was done with them."""

from dataclasses import dataclass, replace

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import is_made_up, overlap
from onnxprune.calibration.split import RowRoles, Used
from onnxprune.config import PruneConfig
from onnxprune.core.errors import InputError
from onnxprune.core.results import RowUse
from onnxprune.core.text import several
from onnxprune.importance import scorer_row
from onnxprune.outputs.reading import read_meaning
from onnxprune.outputs.unseen import one_answer
from onnxprune.pipeline.prepare import Prepared

_TOLD: dict[Used, str] = {
    "unused": "metrics were measured on {} kept apart, which nothing was fitted to",
    "chosen": "metrics were measured on {} that nothing was fitted to, but that fits and sizes were chosen by, which "
    "flatters a little; give --eval for an honest figure",
    "fitted": "metrics were measured on the calibration rows; give --eval for an honest figure",
}
_SHARED = "{} of {} calibration rows are also in --eval, which flatters the figures"


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows that figures are of.

    Attributes:
        on: of the metrics; None without any.
        confirmed_on: of those that confirm what the first ones chose; None where nothing does.
        use: how many rows did what; None where there are none.
        notes: what the user should know of them.
        warnings: what makes their figures say nothing.
    """

    on: Dataset | None
    confirmed_on: Dataset | None = None
    use: RowUse | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[Dataset | None, Dataset | None]:
        """Both."""
        return self.on, self.confirmed_on


def rows_to_measure(
    prepared: Prepared,
    evaluation: Dataset | None,
    config: PruneConfig,
    confirm: Dataset | None = None,
    *,
    planned: bool = False,
) -> Measured:
    """The rows that figures are of: those that the user gave for it, else the calibration rows that report.

    Where nothing is done with the calibration rows, figures are of all of them.

    Args:
        prepared: the model and its calibration rows.
        evaluation: rows that the user gave for figures.
        config: options.
        confirm: rows that confirm.
        planned: whether a plan says what goes, so that nothing is scored.

    Raises:
        InputError: labels of rows that the user gave for figures fit no output.
    """
    measured = _measured(prepared, evaluation, config, confirm, planned=planned)
    rows = measured.on
    if rows is None:
        return measured
    if rows.labels is not None and config.outputs.metric is None:
        required = evaluation is not None or config.is_searched
        measured = _with_labels_that_fit(measured, rows, prepared, config, required=required)
    meaning = read_meaning(prepared.analysis, config.outputs)
    return replace(measured, warnings=one_answer(prepared.model, meaning, rows, config.engine))


def _with_labels_that_fit(
    measured: Measured, rows: Dataset, prepared: Prepared, config: PruneConfig, *, required: bool
) -> Measured:
    """The rows without labels that fit no output; such labels are an error, before any work, where they were asked for.

    Calibration rows need none: theirs may be of another use (folders of classes beside a segmenter).
    """
    from onnxprune.evaluation.metrics import compare

    some = rows.take(_telling(rows.targets))
    model, analysis = prepared.model, prepared.analysis
    try:
        compare(model, model, some, config=config.outputs, analysis=analysis, engine=config.engine)
    except InputError as error:
        if required:
            raise
        return replace(
            measured, on=replace(rows, labels=None), notes=(*measured.notes, f"figures are without labels: {error}")
        )
    return measured


def _measured(
    prepared: Prepared, evaluation: Dataset | None, config: PruneConfig, confirm: Dataset | None, *, planned: bool
) -> Measured:
    used: Used
    split, searched = prepared.rows, config.is_searched and not (planned or config.lossless)
    scored = not planned and scorer_row(config.importance).needs_data
    fitted = split is not None and not config.lossless and (scored or config.repair or config.distill > 0)
    if split is None or not fitted:
        on = evaluation if split is None or evaluation is not None else split.rows
        use = None if on is None else RowUse(0, 0, 0, len(on), _used("unused", chosen=searched), is_made_up(on.source))
        return Measured(on, confirm, use)
    if evaluation is not None:
        shared = _shared(split, evaluation, config)
        used = "fitted" if shared else _used("unused", chosen=searched)
        told = (_SHARED.format(shared, len(split.rows)),) if shared else ()
        return Measured(evaluation, confirm, _use(split, evaluation, used), told)
    told = (_TOLD[split.reported].format(several(len(split.report), "calibration row")),)
    used = _used(split.reported, chosen=searched)
    return Measured(split.report, confirm, _use(split, split.report, used), told)


def _shared(split: RowRoles, evaluation: Dataset, config: PruneConfig) -> int:
    """How many calibration rows are among those that the user gave for figures; looked for where some may be."""
    likely = config.allow_overlap or {*split.rows.files} & {*evaluation.files}
    return overlap(split.rows, evaluation) if likely else 0


def _used(used: Used, *, chosen: bool) -> Used:
    return "chosen" if chosen and used == "unused" else used


def _use(split: RowRoles, on: Dataset, used: Used) -> RowUse:
    return RowUse(len(split.fit), len(split.curves), len(split.last.choose), len(on), used, is_made_up(on.source))


def _telling(labels: np.ndarray | None) -> list[int]:
    """Rows that tell whether labels fit: the first one, and those with the smallest and the largest label."""
    if labels is None or not labels.size:
        return [0]
    by_row = labels.reshape(len(labels), -1)
    return sorted({0, int(by_row.min(axis=1).argmin()), int(by_row.max(axis=1).argmax())})
