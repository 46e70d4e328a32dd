"""Formats numbers and metrics for people."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.engine import CPU_NAME
from onnxprune.core.results import GroupResult, InputSize, LayerCost, MetricChange, NotPruned, TimeReport
from onnxprune.core.targets import Target
from onnxprune.core.text import RATIO_METRICS, SHARE_METRICS, percent, several, visible

_DIGITS = 3
_MOST_SIZES = 6


def count(value: float) -> str:
    """`1234567` as `1.23 M`."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def size(value: float) -> str:
    """Bytes: `1234567` as `1.23 MB`."""
    return _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))


def cost(kind: str, value: float) -> str:
    """The cost of a counted kind: a number, or bytes."""
    return size(value) if COST_KINDS[kind].is_size else count(value)


def cost_name(kind: str) -> str:
    """What a kind of cost is called within a sentence: `MACs`, `parameters`."""
    title = COST_KINDS[kind].title
    return title if title[:2].isupper() else title.lower()


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    if power == 0:
        return f"{value:.0f} {units[0]}".strip()
    digits = next((n for n in (2, 1) if len(f"{abs(value):.{n}f}") <= _DIGITS + 1), 0)  # 9.995 rounds to 10.0
    if float(f"{abs(value):.{digits}f}") >= base and power < len(units) - 1:  # 999,999 rounds to 1000 k
        value, power, digits = value / base, power + 1, 2
    return f"{value:.{digits}f} {units[power]}"


def ratio(after: float, before: float) -> str:
    """`after` as percent of `before`; a dash where that was 0."""
    return percent(after / before) if before else "–"


def duration(seconds: float) -> str:
    """`0.01` as `10 ms`, `75` as `1 min 15 s`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(value: float) -> str:
    """`0.0123` as `0.0123 ms`, `123.4` as `123 ms`."""
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def spread_of(time: TimeReport) -> str:
    """What the ratio of times lies between: `54.2 to 55.1 %`."""
    return f"{100 * time.low:.1f} to {percent(time.high)}"


def threads_of(time: TimeReport) -> str:
    """How a time was measured: threads, the batch if not 1, the provider (without its options) if not the CPU's."""
    threads = several(time.threads, "thread") if time.threads else "all cores"
    batch = "" if time.batch == 1 else f", batch {time.batch}"
    return threads + batch + on_provider(time.provider.partition(":")[0])


def on_provider(provider: str) -> str:
    """The provider that a time was measured on, behind a comma; nothing for the CPU's."""
    return "" if provider == CPU_NAME else f", on {provider}"


def is_share(name: str) -> bool:
    """Whether a metric is a share in [0, 1] where more is better."""
    return name.partition("[")[0] in SHARE_METRICS


def metric_value(name: str, value: float) -> str:
    """A metric's value with its unit."""
    if not math.isfinite(value):
        return "–"
    return percent(value, 2) if is_share(name) or name in RATIO_METRICS else f"{value:.4g}"


def metric_change(name: str, change: MetricChange) -> str:
    """The difference of a metric, in percentage points for shares."""
    difference = change.after - change.before
    if not math.isfinite(difference):
        return "–"
    if name in RATIO_METRICS:
        return f"{100 * difference:+.2f} %"
    return f"{100 * difference:+.2f} points" if is_share(name) else f"{difference:+.4g}"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why channels stay, with the nodes responsible and the tensors concerned."""

    reason: str
    nodes: tuple[str, ...]
    tensors: tuple[str, ...]


def obstacles(not_pruned: Iterable[NotPruned]) -> tuple[Obstacle, ...]:
    """What is not pruned, by reason; the reason that concerns most tensors comes first."""
    by_reason: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for item in not_pruned:
        nodes, tensors = by_reason.setdefault(item.reason, ({}, {}))
        tensors[item.tensor] = None
        if item.node:
            nodes[item.node] = None
    grouped = [Obstacle(reason, tuple(nodes), tuple(tensors)) for reason, (nodes, tensors) in by_reason.items()]
    return tuple(sorted(grouped, key=lambda o: -len(o.tensors)))


def asked_for(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The limits that the user set, from `PruneOutcome.settings`."""
    limits = [
        str(Target(**target)) if isinstance(target, Mapping) else str(target)
        for target in settings.get("targets") or ()
    ]
    if settings.get("max_drop") is not None:
        limits.append(f"at most {settings['max_drop']:g} point{'s' * (settings['max_drop'] != 1)} lost")
    if settings.get("threshold") is not None:
        limits.append(f"threshold {settings['threshold']}")
    return tuple(limits)


def units_in_words(groups: Sequence[GroupResult], verb: str) -> str:
    """How many units of each kind went or stay: `332 of 512 channels and 4 of 8 heads removed`.

    Args:
        groups: all groups.
        verb: "removed" or "stay".
    """
    counted = {}
    for kind in dict.fromkeys(("channel", *(group.kind for group in groups))):
        own = [group for group in groups if group.kind == kind]
        units, kept = sum(group.units for group in own), sum(group.kept for group in own)
        counted[kind] = (units - kept if verb == "removed" else kept, units)
    known = {kind: (part, units) for kind, (part, units) in counted.items() if units and (part or verb != "removed")}
    told = known or {"channel": counted["channel"]}
    return f"{' and '.join(f'{part} of {several(units, kind)}' for kind, (part, units) in told.items())} {verb}"


_ORIGINS = {"given": "as given", "data": "from the data", "guess": "a guess"}


def sizes_line(sizes: Iterable[InputSize]) -> str:
    """The sizes of inputs that the file leaves open, in words; empty where there are none."""
    sizes = list(sizes)
    told = "; ".join(f"{visible(each.name)} {each.size}, {_ORIGINS[each.origin]}" for each in sizes[:_MOST_SIZES])
    more = f"; and {len(sizes) - _MOST_SIZES} more" if len(sizes) > _MOST_SIZES else ""
    hint = " (--shape sets it)" if any(each.origin == "guess" for each in sizes) else ""
    return f"{told}{more}{hint}"


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first names, as people may see them, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(map(visible, listed[:limit])) + more


def narrowing(groups: Sequence[GroupResult], layers: Iterable[LayerCost]) -> list[LayerCost]:
    """The layers that may lose channels: those that make a group's, and depthwise ones, which follow what they read."""
    makers = {node for group in groups for node in group.producers}
    return [layer for layer in layers if layer.node in makers or layer.width_after != layer.width_before]
