"""Operators that channels are not followed through, but of which something else is known."""

from collections.abc import Sequence
from math import inf
from typing import ClassVar

import numpy as np

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Unknown


class Unfollowed(Unknown):
    """Values picked, placed or made: of constants they are computed."""

    op_types = ("CastLike", "GatherElements", "ScatterElements", "ScatterND")
    folds_up_to = inf


class OneHot(Unknown):
    """OneHot: the depth, not the indices, says how large the result is."""

    op_types = ("OneHot",)
    folds_up_to = 1024


class NumberRange(Unknown):
    """Range: three numbers make any length."""

    op_types = ("Range",)

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Where the range is short."""
        start, stop, step = (float(value) for value in inputs)
        return step != 0 and abs((stop - start) / step) <= limit


class Deciding(Unknown):
    """What is found, kept or counted hangs on single values; codes of a range that is measured while the model runs."""

    op_types: ClassVar[tuple[str, ...]] = ("NonMaxSuppression", "Unique", "DynamicQuantizeLinear")

    def jumps(self, node: Node) -> bool:  # noqa: ARG002
        """Always."""
        return True


class NonZero(Deciding):
    """NonZero: of constants it is computed."""

    op_types = ("NonZero",)
    folds_up_to = inf


class Random(Unknown):
    """Numbers drawn anew in every run."""

    op_types = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
    deterministic = False
