"""Operators that channels are not followed through, but of which something else is known."""

from collections.abc import Sequence
from math import inf

import numpy as np

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Unknown


class Unfollowed(Unknown):
    """Values picked, placed or made: of constants they are computed."""

    op_types = ("CastLike", "GatherElements", "NonZero", "ScatterElements", "ScatterND")
    folds_up_to = inf


class OneHot(Unknown):
    """OneHot: the depth, not the indices, says how large the result is."""

    op_types = ("OneHot",)
    folds_up_to = 1024


class Range(Unknown):
    """Range: three numbers make any length."""

    op_types = ("Range",)

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Where the range is short."""
        start, stop, step = (float(value) for value in inputs)
        return step != 0 and abs((stop - start) / step) <= limit
