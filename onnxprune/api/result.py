"""The result of `prune`: everything the run found out, and how to save the model."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import onnx

from onnxprune.core.costs import COUNTED
from onnxprune.graph.model import to_proto
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.structure.save import save


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class PruneResult(PruneOutcome):
    """The result of `prune`. Fields as in `PruneOutcome`; `report.json_report` writes it as JSON (schema 1)."""

    @classmethod
    def of(cls, outcome: PruneOutcome) -> "PruneResult":
        """Make a result from the outcome of a run."""
        return cls(**{field.name: getattr(outcome, field.name) for field in dataclasses.fields(PruneOutcome)})

    @property
    def proto(self) -> onnx.ModelProto:
        """The pruned model as an ONNX protobuf, with its weights inside."""
        return to_proto(self.model)

    def save(self, path: Path | str, protected: Iterable[Path] = ()) -> tuple[Path, ...]:
        """Write the pruned model; see `structure.save.save`.

        Args:
            path: the file's final name.
            protected: files that are not written to, besides all that the run read.

        Returns:
            The files that were made: the model, and its weights where they are apart.

        Raises:
            InputError: the path cannot be written, or is that of a file that the run read.
            ModelError: the written file does not do what it should.
        """
        return save(self.model, path, self.check, (*self.files, *protected), self.original)

    def __repr__(self) -> str:
        shares = (f"{name} {self.after[name] / self.before[name]:.0%}" for name in COUNTED if self.before[name])
        return f"PruneResult({self.source!r}: {', '.join(shares)} left)"
