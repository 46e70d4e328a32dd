"""The result of comparing two models, as plain data for reports."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnxprune.core.costs import Costs
from onnxprune.core.results import InputSize, MetricChange, TimeReport


@dataclass(frozen=True, slots=True)
class Comparison:
    """How another model compares with its original: costs and metrics.

    Attributes:
        original: name of the original.
        other: name of the other model.
        before: costs of the original.
        after: costs of the other model.
        metrics: by name, of the original and of the other; shares are in [0, 1].
        rows: number of rows that were compared on.
        source: where they are from.
        notes: what the user should know.
        time: the other model beside the original; None where it was not measured.
        warnings: losses so heavy that the other model may be of no use.
        sizes: the sizes of inputs that the files leave open, as they were taken.
    """

    original: str
    other: str
    before: Costs
    after: Costs
    metrics: Mapping[str, MetricChange]
    rows: int
    source: str
    notes: tuple[str, ...] = ()
    time: TimeReport | None = None
    warnings: tuple[str, ...] = ()
    sizes: tuple[InputSize, ...] = ()
