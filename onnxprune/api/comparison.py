"""The result of `validate`, and how to look at it."""

import dataclasses

from onnxprune.api.result import WIDTH
from onnxprune.core.text import main_metric
from onnxprune.evaluation import comparison


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Comparison(comparison.Comparison):
    """How another model compares with its original: costs, metrics and time.

    Attributes:
        original: name of the original.
        other: name of the other model.
        before: costs of the original: `macs` for one row, `params`, `bytes`.
        after: costs of the other model.
        metrics: by name, of the original and of the other; shares are in [0, 1].
        rows: number of rows that were compared on.
        source: where they are from.
        notes: what the user should know.
        time: the other model beside the original, in milliseconds; None where it was not measured.
        warnings: losses so heavy that the other model may be of no use.
        sizes: the sizes of inputs that the files leave open, as they were taken.

    Example:
        ```python
        found = onnxprune.validate("model.onnx", "smaller.onnx", "test.npz")
        print(found.verdict)
        print(found.metrics["agreement"].after, found.after.macs / found.before.macs)
        ```
    """

    @property
    def verdict(self) -> str:
        """One sentence: "2.1 times faster, 0.4 points less top-1 accuracy, 61 % smaller"."""
        from onnxprune.report.verdict import comparison_verdict

        return comparison_verdict(self)

    def summary(self, width: int = WIDTH) -> str:
        """What the command line shows, as text of lines of at most `width` columns."""
        from onnxprune.report.terminal import as_text, validate_summary

        return as_text(validate_summary(self), width)

    def _repr_html_(self) -> str:
        """What notebooks show: the verdict and the figures."""
        from onnxprune.report.notebook import comparison_view

        return comparison_view(self)

    def __repr__(self) -> str:
        name = main_metric(self.metrics) or "relative_error"
        change = self.metrics.get(name)
        told = "" if change is None else f", {name} {change.before:.4g} to {change.after:.4g}"
        return f"Comparison({self.original!r} and {self.other!r} on {self.rows} rows{told})"
