"""The result of `sweep`: the points, how to look at them, and how to go through them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.api.result import WIDTH, PruneResult, write_report
from onnxprune.core.costs import COST_KINDS
from onnxprune.pipeline import sweep as many
from onnxprune.pipeline.sweep import SweepPoint


@dataclass(frozen=True, slots=True, repr=False)
class SweepResult(many.SweepResult[PruneResult]):
    """The result of `sweep`: one point a budget, from the largest to the smallest. Notebooks show it with two charts.

    It is iterated over and indexed like a list of its points; `to_dicts` gives plain rows for a table.

    Attributes:
        source: name of the original.
        metric: what quality is; None where no point has one.
        quality: its value for the original, a share in [0, 1] for accuracies.
        milliseconds: the original's time a run; None where it was not measured.
        points: the results.
        missed: budgets that cannot be met, and why.
        seconds: time by stage that the points share.
        sizes: the sizes of inputs that the file leaves open, as the run took them.

    Example:
        ```python
        swept = onnxprune.sweep("model.onnx", "rows.npz", points=onnxprune.SweepConfig(points=4))
        for point in swept:
            print(point.target, point.cost["macs"], point.quality)
        swept[0].result.save("largest.onnx")
        swept.report("sweep.html")
        ```
    """

    def __iter__(self) -> Iterator[SweepPoint[PruneResult]]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, position: int) -> SweepPoint[PruneResult]:
        return self.points[position]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain row a point, for `pandas.DataFrame` or `csv.DictWriter`.

        Returns:
            Rows of `target`, `macs`, `params`, `bytes`, `macs_share` and so on (shares of the original's cost),
            `latency_ms`, `latency_share`, `metric`, `quality` (None where it was not measured), `on_front` (whether
            nothing beats the point in quality and in what the budgets are on), `warnings` (in words).
        """
        front = set(self.front(self.points[0].target.kind))
        return [
            {
                "target": str(point.target),
                **point.result.after,
                **{f"{kind}_share": point.cost.get(kind) for kind in COST_KINDS},
                "latency_ms": point.milliseconds,
                "metric": self.metric,
                "quality": point.quality,
                "on_front": n in front,
                "warnings": "; ".join(point.result.warnings),
            }
            for n, point in enumerate(self.points)
        ]

    @property
    def verdict(self) -> str:
        """One sentence: which of the models is the fastest that is hardly worse than the original."""
        from onnxprune.report.verdict import sweep_verdict

        return sweep_verdict(self)

    def summary(self, width: int = WIDTH) -> str:
        """What the command line shows, as text of lines of at most `width` columns."""
        from onnxprune.report.sweep_report import sweep_summary
        from onnxprune.report.terminal import as_text

        return as_text(sweep_summary(self), width)

    def report(self, path: Path | str) -> Path:
        """Write a report: a page to look at (`.html`), or the machine report (`.json`). As `PruneResult.report`."""
        from onnxprune.report.json_report import to_text
        from onnxprune.report.provenance import library_provenance
        from onnxprune.report.sweep_report import sweep_page, sweep_report

        first = self.points[0].result
        origin, none = library_provenance(first), [None] * len(self.points)
        forms = {".html": lambda: sweep_page(self, origin), ".json": lambda: to_text(sweep_report(self, none, origin))}
        return write_report(path, forms, (*([] if first.original is None else first.original.files), *first.files))

    def _repr_html_(self) -> str:
        """What notebooks show: the verdict, the points, and two charts."""
        from onnxprune.report.notebook import sweep_view

        return sweep_view(self)

    def __repr__(self) -> str:
        return f"SweepResult({self.source!r}: {len(self.points)} points, {len(self.missed)} budgets missed)"
