"""The interface of scorers: what a scorer gets, and what it returns."""

from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.split import RowRoles
from onnxprune.config import OamipConfig, OutputConfig
from onnxprune.core.clock import Progress, no_progress
from onnxprune.core.engine import RunOptions
from onnxprune.core.scores import Scores
from onnxprune.graph.model import Model
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids


@dataclass(frozen=True, slots=True)
class ScoreContext:
    """Everything a scorer may use: the analysed model, calibration data, options, and where tasks run.

    Attributes:
        analysis: the original's; no consumer in its model uses what goes without loss.
        rows: calibration rows and what each is for; None where the scorer needs none and the user gave none.
        run: seed, threads, memory and the folder of kept steps.
        executor: where independent tasks run.
        progress: told of steps.
        free: `(units,)` True where a unit goes without loss, whatever its score; None where none does.
        oamip: options of the paper's program.
        outputs: what the user says of the outputs.
        branches: whether groups may lose all their units where the graph can do without.
        narrow: whether the damage of very small widths matters: budgets of time ask for them.
    """

    analysis: Analysis
    rows: RowRoles | None
    run: RunOptions
    executor: Executor
    progress: Progress = no_progress
    free: Ids | None = None
    oamip: OamipConfig = field(default_factory=OamipConfig)
    outputs: OutputConfig = field(default_factory=OutputConfig)
    branches: bool = False
    narrow: bool = False

    @property
    def model(self) -> Model:
        """The model whose units are scored."""
        return self.analysis.model

    @property
    def data(self) -> Dataset | None:
        """The calibration rows, but those that are for the report alone."""
        return None if self.rows is None else self.rows.data


class Scorer(Protocol):
    """A scorer: a function from a `ScoreContext` to scores."""

    def __call__(self, context: ScoreContext) -> Scores:
        """Score every group of the context's analysis."""
