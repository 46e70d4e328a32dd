"""The costs of a model, and the kinds of cost that a budget can limit."""

from collections.abc import Mapping
from dataclasses import dataclass

MACS_CONVENTION = 2
"""Version of what counts as multiply-adds. 1: only Conv, ConvTranspose, Gemm and MatMul with a constant matrix."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a model: multiply-adds, parameters, bytes.

    Attributes:
        params: elements of floating-point weights (initializers and Constant nodes).
        macs: multiply-adds, for one row, of all products that are summed: convolutions, matrix products, recurrent
            layers, Einsum and attention, with weights or of two activations. Biases, element-wise operators, pools and
            normalisations do not count.
        bytes: size of the stored weights, floating-point or of at most 8 bits (shapes and indices are not weights).
    """

    params: int
    macs: int
    bytes: int

    def of(self, kind: str) -> int:
        """The cost of a counted kind (see `COST_KINDS`)."""
        return int(getattr(self, kind))


@dataclass(frozen=True, slots=True)
class CostKind:
    """Describes one kind of cost: its name, unit, and whether it is counted or measured.

    Attributes:
        name: in `--target`, in JSON, and the field of `Costs` where it is counted.
        title: for people.
        units: factor per unit that a value may be written with, in lower case.
        unit_names: the units in words, for messages.
        measured: whether it is measured in onnxruntime (a time) and not counted on the graph.
        base_unit: what an absolute value is printed with.
    """

    name: str
    title: str
    units: Mapping[str, int]
    unit_names: str
    measured: bool = False
    base_unit: str = ""


_NUMBERS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_NUMBER_NAMES = "k, M, G, kB, MB or GB"
_TIMES = {"": 1, "us": 1, "ms": 10**3, "s": 10**6}

COST_KINDS: Mapping[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind("macs", "MACs", _NUMBERS, _NUMBER_NAMES),
        CostKind("params", "Parameters", _NUMBERS, _NUMBER_NAMES),
        CostKind("bytes", "Weights", _NUMBERS, _NUMBER_NAMES),
        CostKind("latency", "Latency", _TIMES, "us, ms or s", measured=True, base_unit="us"),
    )
}
"""Every kind of cost, by name, in the order in which reports show them."""

COUNTED = tuple(kind.name for kind in COST_KINDS.values() if not kind.measured)
"""Names of the kinds that are counted exactly: fields of `Costs`."""
