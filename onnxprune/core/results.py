"""Plain data that stages pass on to the report: what stays, metrics and outcomes."""

from dataclasses import dataclass, replace

from onnxprune.core.engine import CPU_NAME

NOISY = 1.25
"""Times the least that a ratio of times may be: where it may be more, it says little."""
_SAME = 0.03  # from 1, in ratios of times: closer ones are the same


def is_noisy(ratio: float, low: float, high: float) -> bool:
    """Whether a ratio of times says little: it may be far from what was measured, or a gain may be none.

    Args:
        ratio: as measured.
        low: the least that it may be.
        high: the most.
    """
    return high > NOISY * low or (abs(ratio - 1) > _SAME and low < 1 < high)


@dataclass(frozen=True, slots=True)
class NotPruned:
    """Channels that cannot be pruned, and why.

    `reason` is in plain words; `node` is the operator responsible ("" for graph inputs and outputs).

    `limitation` tells what onnxprune does not understand from what lies in the model's nature.
    """

    tensor: str
    reason: str
    node: str
    limitation: bool = False


@dataclass(frozen=True, slots=True)
class InputSize:
    """A size of inputs that the file leaves open, as it was chosen for the run.

    Attributes:
        name: the file's name for it, or which axis of which input.
        size: the number.
        origin: "given" by the user, of the "data", or a "guess".
        inputs: the inputs that have it.
    """

    name: str
    size: int
    origin: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowUse:
    """How many rows did what. Where there are few, some did several things.

    Attributes:
        fit: calibration rows that statistics are of.
        curves: those that the damage of groups was measured on.
        choose: those that trials, ridges and epochs were chosen by.
        report: rows that the metrics are of.
        used: what else was done with the last: "unused", "chosen" (choices were made by them) or "fitted".
        made_up: whether the rows of the metrics are no data.
    """

    fit: int
    curves: int
    choose: int
    report: int
    used: str
    made_up: bool = False


_NO_BETTER = 0.02  # of what always the same answer gets wrong: a model that gets hardly more of it right


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of the original and of the result, in the metric's own unit (accuracies lie in [0, 1]).

    Attributes:
        before: of the original.
        after: of the result.
        rules: whether an accuracy floor is about it; of several, the one that falls most counts.
        detail: what else a reader should know.
        blind: what an answer that does not look at the inputs would get, where labels tell it.
    """

    before: float
    after: float
    rules: bool = False
    detail: str = ""
    blind: float | None = None

    def of(self, output: str) -> "MetricChange":
        """The same, with the output that it is of among the details."""
        return replace(self, detail=", ".join(filter(None, (f"of {output!r}", self.detail))))

    @property
    def is_blind(self) -> bool:
        """Whether labels say that the original is hardly better than an answer that does not look at the inputs.

        Labels of one kind tell nothing apart.
        """
        if self.blind is None or self.blind >= 1:
            return False
        return self.before - self.blind <= _NO_BETTER * (1 - self.blind)


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What became of one group.

    Attributes:
        name: the group's name.
        units: units before.
        kept: units after.
        producers: nodes that make them.
        consumers: nodes that contract over them.
        macs_before: multiply-adds of the layers that consume the group, before.
        macs_after: and after.
        scores: score in [0, 1] per unit; empty where the plan came without.
        damage: `(kept units, predicted damage)` pairs, ascending; empty where the scorer predicts none.
        step: what the kept width was to be a multiple of, unless the whole group stays.
        kind: what a unit is: "channel" or, in attention, "head".
    """

    name: str
    units: int
    kept: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    macs_before: int = 0
    macs_after: int = 0
    scores: tuple[float, ...] = ()
    damage: tuple[tuple[int, float], ...] = ()
    step: int = 1
    kind: str = "channel"


@dataclass(frozen=True, slots=True)
class ProgramReport:
    """How an optimisation problem was solved: that of the allocation, or the paper's.

    `status` is "optimal", "limit" or "none" (nothing was solved, for a threshold or a given plan).
    """

    status: str
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """A latency budget: predicted and measured times.

    Times are milliseconds a run. Original and result run in turn, and the quick runs of both count: the 10th percentile
    (other processes only ever make a run slower).

    Attributes:
        before: time of the original.
        predicted: time of the result by the table of kernel times.
        measured: time of the result.
        batch: rows a run.
        threads: threads of onnxruntime; 0 is all cores.
        rounds: how often the program was solved; after each but the last the table was corrected by the measurement.
        provider: execution provider of onnxruntime.
        asked: the share of the original's time that was asked for.
    """

    before: float
    predicted: float
    measured: float
    batch: int
    threads: int
    rounds: int
    provider: str = CPU_NAME
    asked: float = 1.0

    @property
    def ratio(self) -> float:
        """The result's time relative to the original's."""
        return self.measured / self.before


@dataclass(frozen=True, slots=True)
class TimeReport:
    """How long a result takes beside its original, measured in pairs of runs.

    Attributes:
        ratio: the result's time over the original's, by the quick runs of both (their 10th percentiles).
        low: the least that it may be, by how these runs differ.
        high: the most.
        before_ms: time of the original's quick runs, in milliseconds a run.
        after_ms: of the result's.
        pairs: number of pairs.
        batch: rows a run.
        threads: threads of onnxruntime; 0 is all cores.
        provider: execution provider of onnxruntime.
    """

    ratio: float
    low: float
    high: float
    before_ms: float
    after_ms: float
    pairs: int
    batch: int
    threads: int
    provider: str = CPU_NAME

    @property
    def is_noisy(self) -> bool:
        """Whether the runs differ so much among each other that their ratio says little."""
        return is_noisy(self.ratio, self.low, self.high)


@dataclass(frozen=True, slots=True)
class RemovedBlock:
    """A branch that went as a whole: the group that lost all its units, and the nodes that went with it."""

    group: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Multiply-adds and parameters of one layer, and its output channels, before and after; 0 where not known."""

    node: str
    op_type: str
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    width_before: int = 0
    width_after: int = 0
