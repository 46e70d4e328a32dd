"""The result of `prune`: everything the run found out, how to look at it, and how to save the model."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import onnx

from onnxprune.core.costs import COUNTED
from onnxprune.core.errors import InputError
from onnxprune.core.files import place, refuse_inputs
from onnxprune.core.text import percent
from onnxprune.graph.lineage import with_lineage
from onnxprune.graph.model import to_proto
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.report.lineage import record
from onnxprune.structure.save import save

WIDTH = 100
"""Columns of a summary."""


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class PruneResult(PruneOutcome):
    """The result of `prune`: the pruned model and everything that the run found out.

    All fields are plain data: `before` and `after` are `Costs` (`macs` for one row, `params`, `bytes`), `metrics` is by
    name (shares in [0, 1]), times are in milliseconds, `timings` in seconds. Notebooks show it with two charts.

    Attributes:
        model: the pruned model, for the functions of this package; `proto` is the protobuf.
        plan: which units went; `prune(..., plan=result.plan)` removes the same ones.
        source: name of the original (its path, or "model").
        before: costs of the original.
        after: costs of the result, recounted on the result itself.
        metrics: `before` and `after` of each metric; "relative_error" always is there.
        groups: what became of each group of channels or heads.
        layers: multiply-adds, parameters and width of each layer, in the order of the graph.
        not_pruned: tensors whose channels stay, and why.
        removed_blocks: branches that went as a whole.
        time: the result's time beside the original's; None where it was not measured.
        latency: prediction and measurement, where there was a budget of time.
        warnings: heavy losses, and results that are not faster.
        notes: what else is worth knowing of the run.
        program: how the deciding program was solved.
        timings: seconds by stage.
        settings: the options in force.
        versions: of the packages that computed the result.
        seed: what everything random came from.
        sizes: the sizes of inputs that the file leaves open, as the run took them.
        oamip: figures of the paper's program, where that scored.
        check: what a written file must pass; files: what the run read; original: the model before.

    Example:
        ```python
        result = onnxprune.prune("model.onnx", "rows.npz", targets="macs=0.5")
        print(result.summary())
        result.save("smaller.onnx")
        result.report("report.html")
        ```
    """

    @classmethod
    def of(cls, outcome: PruneOutcome) -> "PruneResult":
        """Make a result from the outcome of a run. Its model is called after what was done to the original."""
        held = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(PruneOutcome)}
        named = dataclasses.replace(outcome.model, name=f"{outcome.source} (pruned: {_shares(outcome, 'macs')})")
        return cls(**{**held, "model": named})

    @property
    def proto(self) -> onnx.ModelProto:
        """The pruned model as an ONNX protobuf, with its weights inside."""
        return to_proto(self.model)

    @property
    def verdict(self) -> str:
        """One sentence: "2.1 times faster, 0.4 points less top-1 accuracy, 61 % smaller"."""
        from onnxprune.report.verdict import verdict_of

        return verdict_of(self)

    def summary(self, width: int = WIDTH) -> str:
        """What the command line shows, as text of lines of at most `width` columns."""
        from onnxprune.report.terminal import as_text, prune_summary

        return as_text(prune_summary(self), width)

    def report(self, path: Path | str) -> Path:
        """Write a report: a page to look at (`.html`), or the machine report (`.json`, see docs/report.md).

        Args:
            path: the file.

        Returns:
            The path.

        Raises:
            InputError: the file has another ending, cannot be written, or is one that the run read.
        """
        from onnxprune.report.html_report import html_report
        from onnxprune.report.json_report import prune_report, to_text
        from onnxprune.report.provenance import library_provenance

        origin = library_provenance(self)
        forms = {".html": lambda: html_report(self, origin), ".json": lambda: to_text(prune_report(self, origin))}
        return write_report(path, forms, (*([] if self.original is None else self.original.files), *self.files))

    def save(self, path: Path | str, protected: Iterable[Path] = (), *, provenance: bool = True) -> tuple[Path, ...]:
        """Write the pruned model. The file appears only where it is whole, valid and right.

        Args:
            path: the file's final name.
            protected: files that are not written to, besides all that the run read.
            provenance: whether the file's metadata says how it was made: version, options that are not the defaults,
                hashes of what was read, costs before; no paths and no names of users.

        Returns:
            The files that were made: the model, and its weights where they are apart.

        Raises:
            InputError: the path cannot be written, or is that of a file that the run read.
            ModelError: the written file does not do what it should.
        """
        model = with_lineage(self.model, record(self)) if provenance else self.model
        return save(model, path, self.check, (*self.files, *protected), self.original)

    def _repr_html_(self) -> str:
        """What notebooks show: the verdict, the figures, and two charts."""
        from onnxprune.report.notebook import result_view

        return result_view(self)

    def __repr__(self) -> str:
        return f"PruneResult({self.source!r}: {_shares(self, *COUNTED)} left)"


def _shares(outcome: PruneOutcome, *kinds: str) -> str:
    """What is left of the costs: "macs 50 %, params 61 %"."""
    before, after = outcome.before, outcome.after
    return ", ".join(f"{kind} {percent(after[kind] / before[kind], 0)}" for kind in kinds if before[kind])


def write_report(path: Path | str, forms: Mapping[str, Callable[[], str]], read: Iterable[Path]) -> Path:
    """Write a report in the form that a file's ending asks for.

    Args:
        path: the file.
        forms: what makes the text, by ending.
        read: files that must not be written to.

    Raises:
        InputError: the ending is another one, the file cannot be written, or it is one that was read.
    """
    path = Path(path)
    build = forms.get(path.suffix.lower())
    if build is None:
        raise InputError(f"{path}: a report ends in {' or '.join(forms)}")
    goal = place(path, "report")
    refuse_inputs(goal, read, "report")
    goal.write(build().encode("utf-8"))
    return path
