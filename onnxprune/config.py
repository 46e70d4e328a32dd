"""Every option of onnxprune, declared once: the command line, the TOML file and the Python API read these dataclasses.

The `help` in a field's metadata is the text of the command-line option. No validation against a model happens
here; `Target.parse` only checks the form.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_TARGET = re.compile(r"(?P<kind>[a-z]+)(?::(?P<layers>.+))?=(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<unit>[a-z]*)", re.I)


def option(default: Any, help_text: str, **metadata: Any) -> Any:
    """A dataclass field with its help text; `metadata` may add `choices` and `metavar`."""
    return dataclasses.field(default=default, metadata={"help": help_text, **metadata})


@dataclass(frozen=True, slots=True)
class Target:
    """One budget: `kind` (macs, params, bytes, latency) at most `value`.

    `value <= 1` is a share of the original, a larger one is absolute. `layers` (a regular expression on node
    names) restricts the budget to matching layers.
    """

    kind: str
    value: float
    layers: str | None = None

    KINDS = ("macs", "params", "bytes", "latency")

    @property
    def is_share(self) -> bool:
        """True where `value` is a share of the original."""
        return self.value <= 1

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `macs=0.5`, `params=250000`, `bytes=2MB` or `macs:layer3.*=0.5`.

        Raises:
            InputError: the text has another form, an unknown kind, or a value of 0 or below.
        """
        match = _TARGET.fullmatch(text.strip())
        if match is None:
            raise InputError(f"target {text!r} is not of the form kind=value, for example macs=0.5 or bytes=2MB")
        kind, unit = match["kind"].lower(), match["unit"].lower()
        if kind not in cls.KINDS:
            raise InputError(f"target {text!r}: unknown kind {kind!r}; use one of {', '.join(cls.KINDS)}")
        if unit not in _UNITS:
            raise InputError(f"target {text!r}: unknown unit {match['unit']!r}; use k, M, G, kB, MB or GB")
        try:
            value = float(match["number"]) * _UNITS[unit]
        except ValueError:
            raise InputError(f"target {text!r}: {match['number']!r} is not a number") from None
        if value <= 0:
            raise InputError(f"target {text!r}: the value must be above 0")
        return cls(kind, value, match["layers"])

    def __str__(self) -> str:
        layers = f":{self.layers}" if self.layers else ""
        return f"{self.kind}{layers}={self.value:g}"


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """How integer images become the model's input: `(x * scale - mean) / std`, then the layout."""

    mean: tuple[float, ...] = option((), "Per-channel mean, subtracted after scaling.", metavar="A,B,C")
    std: tuple[float, ...] = option((), "Per-channel standard deviation, divided by.", metavar="A,B,C")
    scale: float | None = option(None, "Factor on integer images [default: 1/255 where --mean or --std is given, else 1].")
    layout: str = option("auto", "Layout the model expects.", choices=("auto", "nchw", "nhwc"))
    size: int | None = option(None, "Resize the short side to this, then crop the centre (image folders).")


@dataclass(frozen=True, slots=True)
class OamipConfig:
    """The paper's program (`--importance oamip`)."""

    lambda_: float = option(5.0, "Weight of the task loss against sparsity.")
    epsilon: float = option(1e-5, "Half-width of the input box that bounds are propagated from.")
    images: str = option("10", "Images in the program: N (balanced by class), random:N, per-class, or all.")
    gates: str = option("relaxed", "ReLU gates.", choices=("relaxed", "integer"))
    bounds: str = option("eps", "Bounds of the pre-activations.", choices=("eps", "valid"))
    decoupled: bool = option(False, "Cut the network into modules with auxiliary heads, one program each.")
    time_limit: float | None = option(None, "Seconds the solver may take for one program.")


@dataclass(frozen=True, slots=True)
class PruneConfig:
    """What `prune` does, apart from the files it reads and writes."""

    targets: tuple[Target, ...] = option((), "Budget, for example macs=0.5; may be given several times.", metavar="KIND=VALUE")
    max_drop: float | None = option(None, "Smallest model whose metric on --eval falls by at most P points.", metavar="P")
    importance: str = option(
        "reconstruction",
        "How units are scored.",
        choices=("reconstruction", "oamip", "magnitude", "magnitude-l1", "activation", "random"),
    )
    threshold: str | None = option(
        None, "Remove units whose score is below this (0 to 1), or below their layer's mean with 'mean'.", metavar="T|mean"
    )
    round_to: int = option(1, "Keep channel counts at multiples of this.")
    keep: tuple[str, ...] = option((), "Never prune groups whose name matches this pattern.", metavar="PATTERN")
    repair: bool = option(True, "Refit the remaining weights to the original's activations.")
    images: int = option(1000, "Calibration rows used at most.")
    seed: int = option(0, "Seed of everything random.")
    threads: int = option(0, "Threads for onnxruntime and the programs; 0 takes all cores.")
    oamip: OamipConfig = dataclasses.field(default_factory=OamipConfig)
