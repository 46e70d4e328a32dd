"""Summaries for a terminal, as rich renderables. Names are `Text`, never markup, so that brackets in them stay."""

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from onnxprune.core.costs import Costs
from onnxprune.core.engine import CPU_NAME
from onnxprune.core.results import (
    GroupResult,
    InputSize,
    LatencyReport,
    LayerCost,
    MetricChange,
    NotPruned,
    ProgramReport,
    TimeReport,
)
from onnxprune.core.text import MESSAGE, NAME, metric_name, percent, several, visible, visible_lines
from onnxprune.pipeline.outcome import PruneOutcome
from onnxprune.report.listing import Listing
from onnxprune.report.text import (
    cost,
    cost_name,
    count,
    duration,
    is_share,
    metric_change,
    metric_value,
    milliseconds,
    narrowing,
    obstacles,
    on_provider,
    ratio,
    size,
    sizes_line,
    some,
    spread_of,
    threads_of,
    units_in_words,
)
from onnxprune.report.verdict import comparison_verdict, verdict_of

if TYPE_CHECKING:
    from onnxprune.core.scores import Scores
    from onnxprune.evaluation.comparison import Comparison
    from onnxprune.report.inspection import Inspection
    from onnxprune.runtime.timing import Latency
    from onnxprune.training.result import Epoch, FinetuneResult

TOP_LAYERS = 8
TOP_REASONS = 6
BAR = 16
GOOD, BAD, DIM = "green", "red", "dim"


def prune_summary(result: PruneOutcome) -> RenderableType:
    """What `prune` did: the verdict, costs, metrics, where the channels went, what stays, how it was decided."""
    return Group(
        _verdict(verdict_of(result)),
        _change_table(result.before, result.after, result.metrics, result.time, result.confirmed),
        _saved_table(result.groups, result.layers),
        *_not_pruned(result.not_pruned),
        _program_line(result.program, result.plan.importance, result.plan.widths),
        *([] if result.latency is None else [_latency_line(result.latency)]),
        _timings_line(result.timings),
        *_sizes(result.sizes),
        *note_lines(result.notes),
        *warning_lines(result.warnings),
    )


def validate_summary(comparison: "Comparison") -> RenderableType:
    """Costs and metrics of two models side by side."""
    what = Text(
        f"{comparison.rows} rows; before: {visible(comparison.original)}, after: {visible(comparison.other)}", style=DIM
    )
    table_of_changes = _change_table(comparison.before, comparison.after, comparison.metrics, comparison.time)
    return Group(
        _verdict(comparison_verdict(comparison)),
        table_of_changes,
        what,
        *_sizes(comparison.sizes),
        *note_lines(comparison.notes),
        *warning_lines(comparison.warnings),
    )


def inspect_summary(inspected: "Inspection") -> RenderableType:
    """Layers, groups, what stays, and the totals last, where the eye is."""
    layers = [Text("Layers (* prunable width)", style="bold"), _inspect_layers(inspected)] if inspected.layers else []
    groups = [Text("Groups (what goes or stays together)", style="bold"), _inspect_groups(inspected)]
    return Group(
        *layers,
        *(groups if inspected.groups else []),
        *_not_pruned(inspected.not_pruned, inspected.op_types, limit=None),
        Text("Outputs, and what they are taken for (--output NAME=KIND says otherwise)", style="bold"),
        _inspect_outputs(inspected),
        _inspect_totals(inspected),
        *_sizes(inspected.sizes),
        *note_lines(inspected.notes),
        *warning_lines(inspected.warnings),
    )


def _sizes(sizes: Iterable[InputSize]) -> list[Text]:
    line = sizes_line(sizes)
    return [Text.assemble(("sizes ", DIM), line)] if line else []


def as_text(shown: RenderableType, width: int) -> str:
    """A summary as plain text, with lines of at most so many columns."""
    console = Console(
        file=StringIO(), width=width, color_system=None, highlight=False, legacy_windows=False, force_jupyter=False
    )
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in visible_lines(captured.get()).split("\n")).strip("\n")


def note_lines(notes: Iterable[str]) -> list[Text]:
    """What else is worth knowing of how a run went; no warning."""
    return [shown(f"note: {note}", style=DIM) for note in notes]


def warning_lines(warnings: Iterable[str]) -> list[Text]:
    """Last of all, where the eye is."""
    return [shown(f"WARNING: {warning}", style="bold yellow") for warning in warnings]


def shown(text: str, style: str = "") -> Text:
    """Text with names of the model in it: no control characters, and not without end."""
    return Text(visible(text, MESSAGE if " " in text else NAME), style=style)


def _verdict(told: str) -> RenderableType:
    return Padding(shown(told, "bold"), (0, 0, 1, 0))


def _change_table(
    before: Costs,
    after: Costs,
    metrics: Mapping[str, MetricChange],
    time: TimeReport | None,
    confirmed: Mapping[str, MetricChange] | None = None,
) -> RenderableType:
    made = Listing("", "before", "after", "change", "", left=(0, 4), names=(), folds=(0, 4), spare=(4, 1))
    if time is not None:
        style = DIM if time.is_noisy else GOOD if time.ratio < 1 else BAD
        left = Text(f"{percent(time.ratio)} left", style=style)
        noisy = "too noisy: " if time.is_noisy else ""
        spread = Text(f"{noisy}{spread_of(time)}, {threads_of(time)}", style=DIM)
        cells = milliseconds(time.before_ms), milliseconds(time.after_ms)
        made.add_row(Text("time a run", style="bold"), *cells, left, spread)
    for kind, old in before.items():
        new = after[kind]
        left = Text(f"{ratio(new, old)} left", style=GOOD if new < old else "")
        made.add_row(Text(cost_name(kind), style="bold"), cost(kind, old), cost(kind, new), left, "")
    told = [(name, metric_name(name), change) for name, change in metrics.items()]
    told += [(name, f"{metric_name(name)}, confirmed", change) for name, change in (confirmed or {}).items()]
    for name, title, change in told:
        worse = change.after < change.before if is_share(name) or change.rules else change.after > change.before
        difference = Text(metric_change(name, change), style=BAD if worse else GOOD)
        cells = metric_value(name, change.before), metric_value(name, change.after)
        made.add_row(Text(title, style="bold"), *cells, difference, Text(change.detail, style=DIM))
    return Padding(made, (0, 0, 1, 0))


def bar(share: float, width: int = BAR) -> Text:
    """A share in [0, 1] as a bar of `width` columns."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return Text.assemble((drawn, "cyan"), ("·" * (width - len(drawn)), DIM))


def _saved_table(groups: Sequence[GroupResult], layers: Sequence[LayerCost]) -> RenderableType:
    """How many channels went, and the layers that save most; each with its own multiply-adds and output channels."""
    changed = sum(g.kept < g.units for g in groups)
    head = Text.assemble((units_in_words(groups, "removed"), "bold"), f" in {several(changed, 'group')}")
    saving = [layer for layer in layers if layer.macs_after < layer.macs_before]
    if not saving:
        return Padding(head, (0, 0, 1, 0))
    narrowed = {layer.node for layer in narrowing(groups, layers)}
    made = Listing("where most was saved", "channels kept", "MACs before", "after", "", left=(0, 4), spare=(4, 2))
    for layer in sorted(saving, key=lambda layer: layer.macs_after - layer.macs_before)[:TOP_LAYERS]:
        made.add_row(
            shown(layer.node),
            f"{layer.width_after}/{layer.width_before}" if layer.node in narrowed else "all",
            count(layer.macs_before),
            count(layer.macs_after),
            bar(layer.macs_after / layer.macs_before),
        )
    more = len(saving) - TOP_LAYERS
    tail = [Text(f"and {several(more, 'more layer')} (--html or --json shows all)", style=DIM)] if more > 0 else []
    return Padding(Group(head, made, *tail), (0, 0, 1, 0))


def _not_pruned(
    not_pruned: tuple[NotPruned, ...], op_types: Mapping[str, str] | None = None, limit: int | None = TOP_REASONS
) -> list[RenderableType]:
    grouped = obstacles(not_pruned)
    if not grouped:
        return []
    made = Listing("what stays, because", "tensors", "at", left=(0, 2), names=(), folds=(0, 2), spare=(1,))
    for obstacle in grouped[:limit]:
        operators = dict.fromkeys((op_types or {}).get(node, "") for node in obstacle.nodes)
        kinds = ", ".join(kind for kind in operators if kind)
        where = some(obstacle.nodes or obstacle.tensors, 2)
        made.add_row(shown(obstacle.reason), str(len(obstacle.tensors)), shown(f"{kinds}: {where}" if kinds else where))
    more = len(grouped) - len(grouped[:limit])
    tail = [Text(f"and {several(more, 'more reason')}", style=DIM)] if more > 0 else []
    return [Padding(Group(made, *tail), (0, 0, 1, 0))]


def _latency_line(latency: LatencyReport) -> Text:
    threads = several(latency.threads, "thread") if latency.threads else "all cores"
    predicted, measured = percent(latency.predicted / latency.before), percent(latency.ratio)
    return Text.assemble(
        ("latency ", DIM),
        f"{latency.before:.3g} to {latency.measured:.3g} ms, measured {measured} (predicted {predicted})",
        (f"   batch {latency.batch}, {threads}{on_provider(latency.provider)}", DIM),
    )


def _program_line(program: ProgramReport, importance: str, widths: str = "") -> Text:
    line = Text.assemble(("importance ", DIM), importance or "–")
    if widths:
        line.append_text(Text.assemble(("   widths ", DIM), widths))
    line.append("   program ", style=DIM)
    if program.status == "none":
        return line.append("none was needed")
    line.append(program.status, style=GOOD if program.status == "optimal" else "yellow")
    if program.gap is not None:
        line.append(f", gap {percent(program.gap, 2)}")
    return line.append(f", {duration(program.seconds)}")


def _timings_line(timings: Mapping[str, float]) -> Text:
    parts = " · ".join(f"{stage} {duration(seconds)}" for stage, seconds in timings.items() if seconds >= 0.05)
    return Text.assemble(("time ", DIM), duration(sum(timings.values())), (f" ({parts})" if parts else "", DIM))


def _inspect_layers(inspected: "Inspection") -> RenderableType:
    made = Listing(
        *("node", "operator", "in", "out", "MACs", "share", "parameters"), left=(0, 1), names=(0, 1), spare=(5, 6, 1)
    )
    for layer in inspected.layers:
        share = layer.macs / inspected.costs.macs if inspected.costs.macs else 0.0
        made.add_row(
            shown(layer.node),
            shown(layer.op_type),
            _width(layer.inputs, prunable=layer.inputs_prunable),
            _width(layer.outputs, prunable=layer.outputs_prunable),
            count(layer.macs),
            percent(share),
            count(layer.params),
        )
    return Padding(made, (0, 0, 1, 0))


def _width(channels: int, *, prunable: bool) -> Text:
    """The star is for pipes and terminals without colours, where it says what the colour does."""
    return Text(f"{channels}*", style="cyan") if prunable else Text(f"{channels} ", style=DIM)


def _inspect_groups(inspected: "Inspection") -> RenderableType:
    made = Listing("group", "units", "also made by", "read by", left=(0, 2, 3), folds=(2, 3), spare=(2,))
    for group in inspected.groups:
        others = [node for node in group.producers if node != group.name]
        units = str(group.units) if group.kind == "channel" else several(group.units, group.kind)
        made.add_row(shown(group.name), units, Text(some(others, 2)), Text(some(group.consumers, 2)))
    return Padding(made, (0, 0, 1, 0))


def _inspect_outputs(inspected: "Inspection") -> RenderableType:
    made = Listing("output", "kind", "columns", "positions", "weight", left=(0, 1), folds=(1,), spare=(4, 3))
    for row in inspected.outputs:
        beside = f", weighed by the scores of {some(row.beside)}" if row.beside else ""
        positions = " x ".join(map(str, row.positions)) or "1"
        made.add_row(
            shown(row.output), shown(row.kind + beside), str(row.columns or "–"), positions, f"{row.weight:.3g}"
        )
    return Padding(made, (0, 0, 1, 0))


def _inspect_totals(inspected: "Inspection") -> RenderableType:
    costs, floor = inspected.costs, inspected.floor
    made = Listing("", *map(cost_name, costs), names=(), folds=(0,), spare=(3,))
    made.add_row(shown(inspected.model, style="bold"), *(cost(kind, number) for kind, number in costs.items()))
    made.add_row("with one channel left a group", *(cost(kind, number) for kind, number in floor.items()))
    share = inspected.prunable / inspected.units if inspected.units else 0.0
    units = "channels and heads" if any(group.kind == "head" for group in inspected.groups) else "channels"
    line = Text.assemble(
        (f"{inspected.prunable} of {inspected.units} {units} ({percent(share)}) can be pruned", "bold"),
        f", in {several(len(inspected.groups), 'group')}",
    )
    return Group(made, Text(), line)


def score_summary(scores: "Scores", importance: str) -> RenderableType:
    """One line a group: how its scores are spread."""
    made = Listing("group", "units", "lowest", "median", "highest", "", spare=(5,))
    for group in scores.groups:
        ordered = sorted(float(score) for score in group.scores)
        low, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        values = (f"{value:.3f}" for value in (low, middle, high))
        made.add_row(shown(group.group), str(len(ordered)), *values, bar(middle))
    parts: list[RenderableType] = [made, Text()]
    if scores.program is not None:
        parts.append(_program_line(scores.program, importance))
    return Group(*parts, *note_lines(scores.notes), *warning_lines(scores.warnings))


def bench_summary(measured: "Sequence[Latency]") -> RenderableType:
    """One line a model: time, time relative to the first, memory, file size."""
    made = Listing("model", "median", "p10", "p90", "relative", "memory", "file", spare=(2, 3, 5, 6))
    for entry in measured:
        memory = "–" if entry.peak_bytes is None else size(entry.peak_bytes)
        relative = Text(f"{entry.ratio:.3f}", style=GOOD if entry.ratio < 1 else "")
        times = (f"{value:.3f} ms" for value in (entry.median_ms, entry.p10_ms, entry.p90_ms))
        made.add_row(shown(entry.model), *times, relative, memory, size(entry.file_bytes))
    first = measured[0]
    threads = "all threads" if first.threads == 0 else f"{first.threads} thread" + "s" * (first.threads > 1)
    threads += on_provider(first.provider)
    how = f"batch {first.batch}, {threads}, {first.rounds} interleaved rounds after {first.warmup} to warm up"
    return Group(made, Text(how, style=DIM), *_sizes(first.sizes))


def epoch_line(epoch: "Epoch") -> Text:
    """One epoch of training."""
    if epoch.number == 0:
        return Text(f"as it came   held-out loss {epoch.held_out_loss:.4g}", style=DIM)
    losses = f"loss {epoch.train_loss:.4g}, held-out {epoch.held_out_loss:.4g}"
    right = (
        "" if epoch.held_out_agreement != epoch.held_out_agreement else f", right {percent(epoch.held_out_agreement)}"
    )
    return Text(f"epoch {epoch.number:<4}   {losses}{right}, {duration(epoch.seconds)}")


def finetune_summary(trained: "FinetuneResult") -> RenderableType:
    """What training brought."""
    return Group(_trained_line(trained), *warning_lines(trained.warnings))


def _trained_line(trained: "FinetuneResult") -> Text:
    first, best = trained.history[0], trained.history[trained.best]
    taught = "" if trained.provider == CPU_NAME else f", the teacher on {trained.provider}"
    told = f"   {duration(trained.seconds)} on {trained.device}{taught}"
    if trained.best == 0:
        return Text.assemble(
            ("no epoch was better than the model as it came, which is written", "bold"),
            f"; held-out {trained.loss} loss {first.held_out_loss:.4g}; a smaller --lr, or more --epochs, may help",
            (told, DIM),
        )
    return Text.assemble(
        (f"epoch {trained.best} is the best", "bold"),
        f" by held-out {trained.loss} loss: {first.held_out_loss:.4g} became {best.held_out_loss:.4g}",
        (told, DIM),
    )
