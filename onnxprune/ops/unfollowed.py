"""Operators whose channels are not followed, but of which other facts are known."""

from collections.abc import Sequence
from math import inf
from typing import Any, ClassVar

import numpy as np

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import TorchRule, Unknown


class Unfollowed(Unknown):
    """Operators that select, place or create values. Applied to constants, they give constants."""

    op_types: ClassVar[tuple[str, ...]] = ("CastLike", "ScatterElements", "ScatterND")
    folds_up_to = inf


class GatherElements(Unfollowed):
    """GatherElements: a value for each index, along an axis."""

    op_types = ("GatherElements",)

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same; negative indices count from the end."""
        axis = node.int("axis", 0)

        def run(x: Any, indices: Any) -> Any:
            return x.gather(axis, indices.long() % x.shape[axis])

        return run


class OneHot(Unknown):
    """OneHot: its depth input, not the indices, says how large the result is."""

    op_types = ("OneHot",)
    folds_up_to = 1024


class NumberRange(Unknown):
    """Range: three numbers make any length."""

    op_types = ("Range",)

    def foldable(self, node: Node, inputs: Sequence[np.ndarray], limit: int) -> bool:  # noqa: ARG002
        """Evaluated in the analysis where the range is short."""
        start, stop, step = (float(value) for value in inputs)
        return step != 0 and abs((stop - start) / step) <= limit


class Deciding(Unknown):
    """Operators whose result depends on single comparisons: quantisation at run time."""

    op_types: ClassVar[tuple[str, ...]] = ("DynamicQuantizeLinear",)

    def jumps(self, node: Node) -> bool:  # noqa: ARG002
        """Counts as not continuous."""
        return True


class Selecting(Deciding):
    """Operators that leave over as many values as comparisons let through (detections, counts)."""

    op_types: ClassVar[tuple[str, ...]] = ("Compress", "NonMaxSuppression", "Unique")
    selects = "number"


class NonZero(Selecting):
    """NonZero: evaluated in the analysis where its input is constant."""

    op_types = ("NonZero",)
    folds_up_to = inf


class Preprocessing(Unknown):
    """Preprocessing as scikit-learn's pipelines are exported: each feature for itself; onnx infers no shape of it."""

    op_types: ClassVar[tuple[str, ...]] = ("ai.onnx.ml.Imputer", "ai.onnx.ml.Normalizer")
    keeps_shape = True


class Scaler(Preprocessing):
    """Scaler: `(x - offset) * scale`, with one number for all features or one for each."""

    op_types = ("ai.onnx.ml.Scaler",)

    def torch(self, node: Node) -> TorchRule:
        """In torch: the same, in float; the numbers are attributes and stay."""
        offset, scale = list(node.attributes.get("offset") or [0.0]), list(node.attributes.get("scale") or [1.0])

        def run(x: Any) -> Any:
            x = x.float()
            return (x - x.new_tensor(offset)) * x.new_tensor(scale)

        return run


class Random(Unknown):
    """Random numbers, drawn anew in every run."""

    op_types = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")

    def deterministic(self, node: Node) -> bool:  # noqa: ARG002
        """Never."""
        return False
