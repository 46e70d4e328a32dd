"""What stages hand on to the report: costs, plans and results. No graph and no numerics here."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import InputError

if TYPE_CHECKING:
    import onnx

    from onnxprune.graph.model import Model

PLAN_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Costs:
    """What a model costs.

    Attributes:
        params: elements of floating-point weights (initializers and Constant nodes).
        macs: multiply-adds of Conv, ConvTranspose, Gemm and MatMul with a constant operand at batch 1, without biases.
        bytes: size of the stored weights, floating-point or of at most 8 bits (shapes and indices are not weights).
    """

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class NotPruned:
    """Channels that stay: `reason` in plain words; `node` is the operator at fault ("" for graph inputs and outputs).

    `limitation` tells what onnxprune does not understand from what lies in the model's nature.
    """

    tensor: str
    reason: str
    node: str
    limitation: bool = False


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Which units go. Refers to groups by name, so that it can be applied to another file of the same graph.

    Attributes:
        units: number of units per group name, before removal.
        removed: positions of removed units per group name, ascending; groups without removals may be absent.
        importance: the scorer that decided.
        scores: score in [0, 1] per unit and group name, for people; may be empty.
    """

    units: Mapping[str, int]
    removed: Mapping[str, tuple[int, ...]]
    importance: str = ""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` reads it back."""
        return json.dumps({"schema": PLAN_SCHEMA, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "PrunePlan":
        """Read a plan.

        Raises:
            InputError: the text is not a plan of a known schema.
        """
        try:
            data = json.loads(text)
            if data["schema"] != PLAN_SCHEMA:
                raise InputError(f"the plan has schema {data['schema']!r}; this version reads {PLAN_SCHEMA}")
            return cls(
                units={str(name): int(n) for name, n in data["units"].items()},
                removed={str(name): tuple(int(p) for p in rows) for name, rows in data["removed"].items()},
                importance=str(data.get("importance", "")),
                scores={str(name): tuple(float(s) for s in row) for name, row in data.get("scores", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"not a pruning plan of onnxprune ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A metric of the original and of the result, in the metric's own unit (accuracies are shares in [0, 1])."""

    before: float
    after: float


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


@dataclass(frozen=True, slots=True)
class ProgramReport:
    """How a program was solved: the allocation program, or the paper's.

    `status` is "optimal", "limit" or "none" (nothing was solved, for a threshold or a given plan).
    """

    status: str
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """A latency budget: what the allocation program predicted, and what was measured end to end, side by side.

    Times are milliseconds a run, the 10th percentile of interleaved runs: other processes only ever make a run slower.

    Attributes:
        before: time of the original.
        predicted: time of the result by the table of kernel times.
        measured: time of the result.
        batch: rows a run.
        threads: threads of onnxruntime; 0 is all cores.
        rounds: how often the program was solved; after each but the last the table was corrected by the measurement.
    """

    before: float
    predicted: float
    measured: float
    batch: int
    threads: int
    rounds: int

    @property
    def ratio(self) -> float:
        """The result's share of the original's time."""
        return self.measured / self.before


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Multiply-adds and parameters of one contracting operator, before and after."""

    node: str
    op_type: str
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int


@dataclass(frozen=True, slots=True)
class PruneResult:
    """Everything `prune` found out. `report.json` writes it as JSON schema 1.

    Attributes:
        model: the pruned model.
        plan: which units went.
        source: name of the original (its path, or "model").
        before: costs of the original.
        after: costs of the result, recounted on the result itself.
        metrics: by name; "top1" where labels were given, else "agreement" and "relative_error".
        groups: what became of each group.
        layers: costs of each contracting operator, in graph order.
        not_pruned: what stays and why.
        program: the deciding program's status.
        timings: seconds per stage, in order.
        seed: the seed everything random came from.
        versions: of onnxprune and the packages that computed the result.
        settings: the options in force, for the report's "how to reproduce".
        oamip: the paper's program (`--importance oamip` only): objective, terms, images, scores per tensor.
        latency: where there was a latency budget.
        notes: what the user should know (what the data were, predictions and measurements that differ, ...).
        check: what a written file must pass, in addition to being valid.
    """

    model: "Model"
    plan: PrunePlan
    source: str
    before: Costs
    after: Costs
    metrics: Mapping[str, MetricChange]
    groups: tuple[GroupResult, ...]
    layers: tuple[LayerCost, ...]
    not_pruned: tuple[NotPruned, ...]
    program: ProgramReport
    timings: Mapping[str, float]
    seed: int
    versions: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    oamip: Mapping[str, Any] | None = None
    latency: LatencyReport | None = None
    notes: tuple[str, ...] = ()
    check: Callable[[Path], None] | None = field(default=None, repr=False, compare=False)

    @property
    def proto(self) -> "onnx.ModelProto":
        """The pruned model as a protobuf, weights in place."""
        from onnxprune.graph.model import to_proto

        return to_proto(self.model)

    def save(self, path: Path | str) -> None:
        """Write the pruned model; see `graph.save.save`."""
        from onnxprune.graph.save import save

        save(self.model, path, self.check)
