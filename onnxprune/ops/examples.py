"""Builds the small example models that handlers provide for tests."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper, parser


def example(
    text: str,
    weights: Mapping[str, tuple[int, ...]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    *,
    full_check: bool = True,
    domain: str = "",
) -> onnx.ModelProto:
    """A model from ONNX text syntax, with random weights from a seed.

    Args:
        text: a graph in the ONNX textual syntax, for example `g (float[N,3] x) => (float[N,2] y) { ... }`.
        weights: shapes of float initializers, filled with seeded normal numbers.
        constants: initializers with given values (shape vectors, for example).
        opset: version of the default operator set.
        full_check: whether strict shape inference must understand the model too.
        domain: a further operator set, of version 1, whose operators the text names with it.
    """
    more = f', "{domain}": 1' if domain else ""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{more}]> {text}')
    rng = np.random.default_rng(len(text))
    for name, shape in (weights or {}).items():
        scale = np.sqrt(2.0 / max(1, int(np.prod(shape[1:]))))
        value = (rng.standard_normal(shape) * scale).astype(np.float32)
        # Variances must be positive.
        model.graph.initializer.append(numpy_helper.from_array(np.abs(value) + 0.5 if "var" in name else value, name))
    for name, value in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(model, full_check=full_check)
    return model
