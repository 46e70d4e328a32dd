"""Budgets as users write them: a limit on a kind of cost, as text such as `macs=50%`."""

import re
from dataclasses import dataclass
from math import isfinite

from onnxprune.core.costs import COST_KINDS
from onnxprune.core.errors import InputError

_TARGET = re.compile(
    r"(?P<kind>[a-z]+)(?::(?P<layers>.+))?=(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<unit>[a-z]*|%)", re.I
)
_SHARE = re.compile(r"[0-9.]+(?:e[+-]?[0-9]+)?%?", re.I)


@dataclass(frozen=True, slots=True)
class Target:
    """One budget: a limit on a kind of cost, absolute or as a share of the original.

    Attributes:
        kind: "macs" (of one row), "params", "bytes" (of the weights) or "latency".
        value: up to 1 a share of the original's cost, above it absolute (of latency: microseconds).
        layers: a name or pattern of node names, to which the budget is restricted; None for all layers.

    Example:
        ```python
        half = onnxprune.Target("macs", 0.5)
        small = onnxprune.Target.parse("bytes=2kB")
        result = onnxprune.prune("model.onnx", importance="magnitude", targets=[half, small])
        ```
    """

    kind: str
    value: float
    layers: str | None = None

    KINDS = tuple(COST_KINDS)

    @property
    def is_share(self) -> bool:
        """Whether the value is a share of the original's cost."""
        return self.value <= 1

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Parse a target such as `macs=0.5`, `macs=50%`, `bytes=2MB`, `latency=1.5ms` or `macs:/layer3/*=0.5`.

        A share alone (`0.5`, `50%`) is one of the multiply-adds.

        Raises:
            InputError: the text has another form, an unknown kind, or a value of 0 or below.
        """
        given = text.strip()
        match = _TARGET.fullmatch(f"macs={given}" if _SHARE.fullmatch(given) else given)
        if match is None:
            raise InputError(f"target {text!r} is not of the form kind=value, for example macs=50% or bytes=2MB")
        kind, unit = match["kind"].lower(), match["unit"].lower()
        if kind not in cls.KINDS:
            raise InputError(f"target {text!r}: unknown kind {kind!r}; use one of {', '.join(cls.KINDS)}")
        about = COST_KINDS[kind]
        if unit not in (*about.units, "%"):
            raise InputError(f"target {text!r}: unknown unit {match['unit']!r}; use {about.unit_names}, or %")
        try:
            value = float(match["number"]) * about.units.get(unit, 0.01)
        except ValueError:
            raise InputError(f"target {text!r}: {match['number']!r} is not a number") from None
        if value <= 0:
            raise InputError(f"target {text!r}: the value must be above 0")
        if not isfinite(value):
            raise InputError(f"target {text!r}: the value is too large")
        if value > 1 and (unit == "%" or _SHARE.fullmatch(given)):
            raise InputError(f"target {text!r}: a share is at most 1, or 100%; name what is counted, as in macs=20M")
        if about.measured and (value > 1) != (unit not in ("", "%")):
            raise InputError(f"target {text!r}: give a share of at most 1, or a time of more than 1us with its unit")
        return cls(kind, value, match["layers"])

    def __str__(self) -> str:
        layers = f":{self.layers}" if self.layers else ""
        unit = "" if self.is_share else COST_KINDS[self.kind].base_unit
        return f"{self.kind}{layers}={self.value:g}{unit}"
