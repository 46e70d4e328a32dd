"""The work that blocked convolutions do at any widths, as a cost table (by a rule; nothing is measured here).

A blocked convolution computes whole blocks of inputs and outputs, so that 20 channels take as long as 32. With `P(k)`
the width filled up to whole blocks, and over all positions of the output,

    work = MACs per pair of channels * P(inputs) * P(outputs) + written * P(outputs),

in multiply-adds, where `written` is what an element of the output takes beside its sums. A convolution of fewer inputs
than a block goes through them as they are, but the layout of its input is changed for it. A depthwise convolution takes
what writing its output takes. The constants are those of `structure.kernels.Blocked`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.allocation.table import CostTable
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.kernels import Blocked
from onnxprune.structure.units import Ids, Layer

_CONSTANT = -1
_Widths = Mapping[int, np.ndarray]
_Form = dict[int, np.ndarray]
"""A sum of functions of the groups' widths: values at their allowed widths; key -1 is the constant."""


@dataclass(frozen=True, slots=True)
class KernelWork:
    """The work of a model's blocked convolutions.

    Attributes:
        analysis: the analysed model.
        blocked: how the kernels go through channels.
    """

    analysis: Analysis
    blocked: Blocked

    def table(self, widths: _Widths) -> CostTable:
        """The work at all allowed widths.

        Args:
            widths: ascending widths of every group.
        """
        alone = {g: np.zeros(len(own)) for g, own in widths.items()}
        pairs: dict[tuple[int, int], np.ndarray] = {}
        constant = 0.0
        group_of = self._group_of()
        terms = {operation.node: operation.terms for operation in self.analysis.operations}
        for layer in self.analysis.layers:
            for factor, left, right in self._terms(layer, terms.get(layer.node, ()), widths, group_of):
                for g, a in left.items():
                    for h, b in right.items():
                        if g == h == _CONSTANT:
                            constant += factor * float(a[0] * b[0])
                        elif g == h or _CONSTANT in (g, h):
                            alone[max(g, h)] += factor * (a * b)
                        else:
                            key = min(g, h), max(g, h)
                            value = factor * (np.outer(a, b) if g < h else np.outer(b, a))
                            pairs[key] = pairs[key] + value if key in pairs else value
        # What is left of a budget is counted from 0: a constant is part of every choice of some group.
        spread = {g: values + constant / len(alone) for g, values in alone.items()}
        return CostTable(widths, 0.0, spread, pairs)

    def not_slower(self, widths: _Widths) -> dict[int, np.ndarray]:
        """The widths that do no more work than a wider one of their group, all other groups whole."""
        table = self.table(widths)
        work = {g: values.copy() for g, values in table.alone.items()}
        for (g, h), values in table.pairs.items():
            work[g] += values[:, -1]
            work[h] += values[-1, :]
        return {g: own[work[g] <= np.minimum.accumulate(work[g][::-1])[::-1]] for g, own in widths.items()}

    def _group_of(self) -> Ids:
        group_of = np.full(self.analysis.units, _CONSTANT, dtype=np.int64)
        for index, group in enumerate(self.analysis.groups):
            group_of[group.units] = index
        return group_of

    def _terms(
        self, layer: Layer, terms: tuple[tuple[int | Ids, ...], ...], widths: _Widths, group_of: Ids
    ) -> Iterator[tuple[float, _Form, _Form]]:
        """What a layer adds: a factor times two forms each."""
        if layer.window is None or len(layer.window.kernel) != 2 or layer.transposed or len(terms) != 1:
            return
        blocked, one = self.blocked, {_CONSTANT: np.ones(1)}
        ((out, ins, *others),) = terms
        positions = prod(f if isinstance(f, int) else len(f) for f in others[2:])
        kernel = prod(layer.window.kernel)
        channels, *sizes = self.analysis.facts.shapes[layer.input][1:]
        outputs = self._form(out, widths, group_of, blocked.padded)
        yield blocked.written * positions, outputs, one
        if layer.group == 1:
            yield float(positions * kernel), self._form(ins, widths, group_of, blocked.read), outputs
            if not isinstance(ins, int):
                yield blocked.reordered * prod(sizes), self._form(ins, widths, group_of, blocked.narrow), one
        elif layer.group != channels:
            yield float(positions * kernel), self._form(ins, widths, group_of, blocked.padded), outputs

    def _form(
        self, factor: int | Ids, widths: _Widths, group_of: Ids, function: Callable[[np.ndarray], np.ndarray]
    ) -> _Form:
        """A function of an axis' width. Of groups that share the axis, each fills blocks of its own."""
        if isinstance(factor, int):
            return {_CONSTANT: function(np.array([factor]))}
        groups, counts = np.unique(group_of[factor], return_counts=True)
        if len(groups) > 1 and function == self.blocked.narrow:
            return {_CONSTANT: np.zeros(1)}
        if len(groups) > 1:
            function = self.blocked.padded
        form = {}
        for g, count in zip(groups.tolist(), counts.tolist(), strict=True):
            repeats = 1 if g == _CONSTANT else count // len(self.analysis.groups[g])
            form[g] = function(np.array([count]) if g == _CONSTANT else widths[g] * repeats)
        return form
