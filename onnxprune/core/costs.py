"""The costs of a model, and the kinds of cost that a budget can limit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MACS_CONVENTION = 2
"""Version of what counts as multiply-adds. 1: only Conv, ConvTranspose, Gemm and MatMul with a constant matrix."""

Sizes = tuple["int | np.ndarray", ...]
"""Sizes to be multiplied: numbers, or the units along an axis, of which the kept ones count."""

Term = tuple[int, Sizes]
"""A summand of a cost: a factor, and the sizes that it is multiplied with."""


class Costs(Mapping[str, int]):
    """What a model costs, by counted kind: multiply-adds, parameters, bytes (see `COST_KINDS`)."""

    def __init__(self, **counts: int) -> None:
        self._counts = counts

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"Costs({', '.join(f'{kind}={count}' for kind, count in self.items())})"

    @property
    def macs(self) -> int:
        """Multiply-adds for one row."""
        return self["macs"]

    @property
    def params(self) -> int:
        """Elements of weights, floating-point or of at most 8 bits."""
        return self["params"]

    @property
    def bytes(self) -> int:
        """Size of the stored weights."""
        return self["bytes"]


@dataclass(frozen=True, slots=True)
class Stored:
    """One constant of the model file: its size, and whether it counts as weights."""

    shape: tuple[int, ...]
    itemsize: int
    is_weight: bool


@dataclass(frozen=True, slots=True)
class Countable:
    """What costs are counted on: a model, or some of its layers.

    Attributes:
        products: multiply-adds at the analysed batch, each product of sizes once.
        stored: the constants, with the sizes of their axes.
    """

    products: Sequence[Sizes]
    stored: Sequence[tuple[Stored, Sizes]]


@dataclass(frozen=True, slots=True)
class CostKind:
    """Describes one kind of cost: its name, its units, and how it is counted.

    Attributes:
        name: in `--target`, in JSON and in `Costs`.
        title: for people.
        units: factor per unit that a value may be written with, in lower case.
        unit_names: the units in words, for messages.
        terms: the summands of the cost; None where it is measured in onnxruntime (a time).
        per_row: whether it is counted at the analysed batch and told for one row.
        is_size: whether it is a number of bytes.
        base_unit: what an absolute value is printed with.
    """

    name: str
    title: str
    units: Mapping[str, int]
    unit_names: str
    terms: Callable[[Countable], Iterable[Term]] | None = None
    per_row: bool = False
    is_size: bool = False
    base_unit: str = ""

    @property
    def measured(self) -> bool:
        """Whether it is measured and not counted on the graph."""
        return self.terms is None


def _macs(model: Countable) -> Iterable[Term]:
    """Multiply-adds of all products that are summed, with weights or of two activations.

    These are convolutions, matrix products, recurrent layers, Einsum and attention. Biases, element-wise operators,
    pools and normalisations do not count.
    """
    return ((1, sizes) for sizes in model.products)


def _params(model: Countable) -> Iterable[Term]:
    """Elements of weights, floating-point or of at most 8 bits, in initializers and Constant nodes.

    Shapes and indices are no weights.
    """
    return ((1, sizes) for constant, sizes in model.stored if constant.is_weight)


def _bytes(model: Countable) -> Iterable[Term]:
    """Bytes of the weights that are counted as parameters."""
    return ((constant.itemsize, sizes) for constant, sizes in model.stored if constant.is_weight)


_NUMBERS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_NUMBER_NAMES = "k, M, G, kB, MB or GB"
_TIMES = {"": 1, "us": 1, "ms": 10**3, "s": 10**6}

COST_KINDS: Mapping[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind("macs", "MACs", _NUMBERS, _NUMBER_NAMES, _macs, per_row=True),
        CostKind("params", "Parameters", _NUMBERS, _NUMBER_NAMES, _params),
        CostKind("bytes", "Weights", _NUMBERS, _NUMBER_NAMES, _bytes, is_size=True),
        CostKind("latency", "Latency", _TIMES, "us, ms or s", base_unit="us"),
    )
}
"""Every kind of cost, by name, in the order in which reports show them. A new kind is one row."""

COUNTED = tuple(kind.name for kind in COST_KINDS.values() if not kind.measured)
"""Names of the kinds that are counted exactly, those of `Costs`."""


def counted(model: Countable, batch: int, size: "Callable[[int | np.ndarray], int]") -> Costs:
    """Count all kinds that can be counted.

    Args:
        model: what is counted.
        batch: the analysed batch.
        size: how many units along an axis count; numbers are given back.
    """
    counts = {}
    for kind in COST_KINDS.values():
        if kind.terms is not None:
            total = sum(_product(factor, sizes, size) for factor, sizes in kind.terms(model))
            counts[kind.name] = total // max(1, batch) if kind.per_row else total
    return Costs(**counts)


def _product(factor: int, sizes: Sizes, size: "Callable[[int | np.ndarray], int]") -> int:
    for each in sizes:
        factor *= size(each)
    return factor
