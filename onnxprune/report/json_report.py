"""The machine reports, JSON schema 1 (`docs/report-schema.json`). Keys are added freely and never renamed."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.config import FinetuneConfig, PruneConfig
from onnxprune.core.costs import MACS_CONVENTION
from onnxprune.core.results import LatencyReport, MetricChange, NotPruned
from onnxprune.core.targets import Target
from onnxprune.pipeline.outcome import PruneOutcome, versions
from onnxprune.report.provenance import Provenance
from onnxprune.report.verdict import comparison_verdict, verdict_of
from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.core.scores import Scores
    from onnxprune.evaluation.comparison import Comparison
    from onnxprune.report.inspection import Inspection
    from onnxprune.runtime.timing import Latency
    from onnxprune.training.result import FinetuneResult

SCHEMA = 1


def to_text(report: Mapping[str, Any]) -> str:
    """A report as JSON text. Numbers that JSON has no word for (NaN, infinities) become null."""
    return json.dumps(plain(report), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Python data that `json` writes as they are: no dataclasses, numpy numbers, paths or NaN."""
    if isinstance(value, Target | Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name.strip("_"): plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if callable(value):
        return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
    return None if isinstance(value, float) and not math.isfinite(value) else value


def head(command: str, model: str, origin: Provenance | None) -> dict[str, Any]:
    """What all reports begin with."""
    entries: dict[str, Any] = {
        "schema": SCHEMA,
        "onnxprune": __version__,
        "command": command,
        "model": model,
        "macs_convention": MACS_CONVENTION,
    }
    if origin is not None:
        entries |= {"command_line": origin.command, "files": plain(origin.files), "machine": plain(origin.machine)}
        entries["versions"] = versions()
    return entries


def prune_report(result: PruneOutcome, origin: Provenance | None = None) -> dict[str, Any]:
    """The report of `prune`."""
    report = head("prune", result.source, origin) | {
        "verdict": verdict_of(result),
        "before": plain(result.before),
        "after": plain(result.after),
        "metrics": metrics_entry(result.metrics),
        "groups": plain(result.groups),
        "layers": plain(result.layers),
        "not_pruned": plain(result.not_pruned),
        "removed_blocks": plain(result.removed_blocks),
        "program": plain(result.program),
        "timings": plain(result.timings),
        "seed": result.seed,
        "versions": plain(result.versions),
        "importance": result.plan.importance,
        "widths": result.plan.widths,
        "settings": _settings(result.settings),
        "sizes": plain(result.sizes),
        "warnings": plain(result.warnings),
        "notes": plain(result.notes),
    }
    if result.rows is not None:
        report["rows"] = plain(result.rows)
    if result.confirmed:
        report["confirmed"] = metrics_entry(result.confirmed)
    if result.oamip is not None:
        report["oamip"] = plain(result.oamip)
    if result.time is not None:
        report["time"] = plain(result.time)
    if result.latency is not None:
        report["latency"] = latency_entry(result.latency)
    return report


def metrics_entry(metrics: Mapping[str, MetricChange]) -> dict[str, Any]:
    """Metrics by name; whether an accuracy floor is about one, and more about it, only where there is such."""
    return {
        name: plain({"before": change.before, "after": change.after})
        | ({"rules": True} if change.rules else {})
        | ({"detail": change.detail} if change.detail else {})
        for name, change in metrics.items()
    }


def latency_entry(latency: LatencyReport) -> dict[str, Any]:
    """A latency budget's prediction and measurement."""
    return {**plain(latency), "ratio": latency.ratio}


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names; `lambda_` is a Python spelling."""
    return {
        name.strip("_"): _settings(value) if isinstance(value, Mapping) else plain(value)
        for name, value in settings.items()
    }


def inspect_report(inspected: "Inspection", origin: Provenance | None = None) -> dict[str, Any]:
    """The report of `inspect`: `before` are the model's costs, `floor` those with one unit left in each group."""
    return head("inspect", inspected.model, origin) | {
        "before": plain(inspected.costs),
        "floor": plain(inspected.floor),
        "units": inspected.units,
        "prunable": inspected.prunable,
        "groups": plain(inspected.groups),
        "layers": plain(inspected.layers),
        "not_pruned": [_with_operator(item, inspected.op_types) for item in inspected.not_pruned],
        "outputs": plain(inspected.outputs),
        "sizes": plain(inspected.sizes),
        "notes": plain(inspected.notes),
        "warnings": plain(inspected.warnings),
    }


def _with_operator(item: NotPruned, op_types: Mapping[str, str]) -> dict[str, Any]:
    return {**plain(item), "op_type": op_types.get(item.node, "")}


def score_report(
    model: str, scores: "Scores", config: PruneConfig, timings: Mapping[str, float], origin: Provenance | None = None
) -> dict[str, Any]:
    """The report of `score`: per group the scores by unit, the order of removal and the predicted damage."""
    report = head("score", model, origin) | {
        "importance": config.importance,
        "groups": [
            {
                "name": group.group,
                "units": len(group.scores),
                "scores": plain(group.scores),
                "order": plain(group.order),
                "damage": [[kept, plain(float(group.damage[kept]))] for kept in range(1, len(group.damage))],
            }
            for group in scores.groups
        ],
        "timings": plain(timings),
        "seed": config.seed,
        "settings": plain(config),
        "notes": plain(scores.notes),
        "warnings": plain(scores.warnings),
    }
    if scores.program is not None:
        report["program"] = plain(scores.program)
    if scores.oamip is not None:
        report["oamip"] = plain(scores.oamip)
    return report


def validate_report(comparison: "Comparison", origin: Provenance | None = None) -> dict[str, Any]:
    """The report of `validate`: `before` is the first model, `after` the other."""
    return head("validate", comparison.original, origin) | {
        "other": comparison.other,
        "verdict": comparison_verdict(comparison),
        "before": plain(comparison.before),
        "after": plain(comparison.after),
        "metrics": metrics_entry(comparison.metrics),
        **({} if comparison.time is None else {"time": plain(comparison.time)}),
        "rows": comparison.rows,
        "sizes": plain(comparison.sizes),
        "warnings": plain(comparison.warnings),
        "notes": plain(comparison.notes),
    }


def bench_report(measured: "Sequence[Latency]", origin: Provenance | None = None) -> dict[str, Any]:
    """The report of `bench`: one entry a model, the first is what the ratios compare with."""
    return head("bench", measured[0].model, origin) | {"models": [plain(entry) for entry in measured]}


def finetune_report(
    model: str, trained: "FinetuneResult", config: FinetuneConfig, origin: Provenance | None = None
) -> dict[str, Any]:
    """The report of `finetune`: every epoch, number 0 is the model as it came."""
    return head("finetune", model, origin) | {
        "loss": trained.loss,
        "best": trained.best,
        "history": plain(trained.history),
        "device": trained.device,
        "provider": trained.provider,
        "seconds": trained.seconds,
        "seed": config.seed,
        "settings": plain(config),
        "warnings": plain(trained.warnings),
    }
