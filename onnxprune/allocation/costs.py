"""Turns the user's targets into budgets: exact costs of a model as polynomials in the groups' widths."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from onnxprune.allocation.problem import Budget, CostPolynomial
from onnxprune.core.costs import COST_KINDS, Costs, Countable, Sizes
from onnxprune.core.errors import InputError
from onnxprune.core.patterns import hint, matching
from onnxprune.core.targets import Target
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Ids

LinearForm = dict[int, float]
"""A width as a linear form in the groups' widths: coefficient per group index; key -1 is the constant."""

_CONSTANT = -1
Key = TypeVar("Key")
_MOST_GROUPED_FACTORS = 2


class CostModel:
    """Exact costs of a model as polynomials in the number of units that groups keep."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._group = np.full(analysis.units, _CONSTANT, dtype=np.int64)
        self._sizes = np.array([len(group) for group in analysis.groups], dtype=np.int64)
        for index, group in enumerate(analysis.groups):
            self._group[group.units] = index

    def width(self, ids: Ids) -> LinearForm:
        """Size of an axis as a linear function of the groups' widths.

        All units of a group appear on the axis equally often.
        """
        groups, counts = np.unique(self._group[ids], return_counts=True)
        return {int(g): float(n if g == _CONSTANT else n / self._sizes[g]) for g, n in zip(groups, counts, strict=True)}

    def product(self, factors: Sizes) -> CostPolynomial:
        """Product of several sizes as a polynomial of degree two in the groups' widths.

        Of more than two factors that depend on groups, the smallest count at full width.

        The result is then an upper bound: a budget that it meets is met.
        """
        constant = 1.0
        forms: list[LinearForm] = []
        for factor in sorted(factors, key=lambda f: -np.inf if isinstance(f, int) else -float(len(f))):
            form = {_CONSTANT: float(factor)} if isinstance(factor, int) else self.width(factor)
            if set(form) == {_CONSTANT}:
                constant *= form[_CONSTANT]
            elif len(forms) < _MOST_GROUPED_FACTORS:
                forms.append(form)
            else:
                assert not isinstance(factor, int)
                constant *= len(factor)
        return _expand(constant, forms)

    def of(self, kind: str, layers: str | None = None) -> CostPolynomial:
        """The cost of a counted kind; with a pattern, of the matching layers with their weights and biases."""
        about = COST_KINDS[kind]
        assert about.terms is not None
        whole = total(_scaled(self.product(sizes), factor) for factor, sizes in about.terms(self._counted(layers)))
        return _scaled(whole, 1 / max(1, self._analysis.facts.batch)) if about.per_row else whole

    def _counted(self, layers: str | None) -> Countable:
        """What counts: all, or the nodes whose names match a pattern; see `core.patterns.matching`."""
        analysis = self._analysis
        if layers is None:
            return analysis.countable()
        matched = matching(layers, (operation.node for operation in analysis.operations), "target")
        chosen = [operation for operation in analysis.operations if operation.node in matched]
        names = (name for operation in chosen for name in operation.weights if name in analysis.constants)
        return analysis.countable(chosen, dict.fromkeys(names))


def budgets(analysis: Analysis, targets: Sequence[Target], before: Costs) -> tuple[Budget, ...]:
    """The budget of each target on a counted kind of cost.

    Args:
        analysis: the analysed model.
        targets: what the user asked for; shares refer to `before`, or to the matching layers' own cost.
        before: costs of the original.

    Raises:
        InputError: a layer pattern that matches no layer or is not a regular expression.
    """
    check_layers(analysis, targets)
    costs = CostModel(analysis)
    made = []
    for target in targets:
        polynomial = costs.of(target.kind, target.layers)
        whole = polynomial([len(group) for group in analysis.groups])
        if target.layers is None:
            whole = before[target.kind]
        name = target.kind if target.layers is None else f"{target.kind} of {target.layers}"
        made.append(Budget(name, polynomial, target.value * whole if target.is_share else target.value))
    return tuple(made)


def check_layers(analysis: Analysis, targets: Iterable[Target]) -> None:
    """Refuse targets whose layer pattern matches no layer.

    Raises:
        InputError: a layer pattern that matches no layer or is not a regular expression.
    """
    names = [operation.node for operation in analysis.operations]
    for target in targets:
        if target.layers is not None and not matching(target.layers, names, f"target {str(target)!r}:"):
            raise InputError(f"target {str(target)!r}: no layer matches {target.layers!r}{hint(target.layers, names)}")


def total(parts: Iterable[CostPolynomial]) -> CostPolynomial:
    """The sum of polynomials."""
    constant, linear, quadratic = 0.0, dict[int, float](), dict[tuple[int, int], float]()
    for part in parts:
        constant += part.constant
        _accumulate(linear, part.linear)
        _accumulate(quadratic, part.quadratic)
    return CostPolynomial(constant, linear, quadratic)


def _accumulate(into: dict[Key, float], more: Mapping[Key, float]) -> None:
    for key, value in more.items():
        into[key] = into.get(key, 0.0) + value


def _scaled(polynomial: CostPolynomial, factor: float) -> CostPolynomial:
    return CostPolynomial(
        polynomial.constant * factor,
        {g: value * factor for g, value in polynomial.linear.items()},
        {pair: value * factor for pair, value in polynomial.quadratic.items()},
    )


def _expand(constant: float, forms: list[LinearForm]) -> CostPolynomial:
    left = forms[0] if forms else {_CONSTANT: 1.0}
    right = forms[1] if len(forms) > 1 else {_CONSTANT: 1.0}
    alone, linear, quadratic = 0.0, dict[int, float](), dict[tuple[int, int], float]()
    for g, a in left.items():
        for h, b in right.items():
            value = constant * a * b
            low, high = min(g, h), max(g, h)
            if high == _CONSTANT:
                alone += value
            elif low == _CONSTANT:
                linear[high] = linear.get(high, 0.0) + value
            else:
                quadratic[low, high] = quadratic.get((low, high), 0.0) + value
    return CostPolynomial(alone, linear, quadratic)
