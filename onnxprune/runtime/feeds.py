"""Random inputs to run a model on, where there is no data."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np
import onnx

from onnxprune.core.errors import InputError
from onnxprune.core.memory import require
from onnxprune.graph.inference import pinned_shape
from onnxprune.graph.inputs import InputSpec, input_specs
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import read_graph
from onnxprune.graph.operators import OpenShapes
from onnxprune.graph.shapes import guesses
from onnxprune.graph.sizes import rows_a_run
from onnxprune.ops.facts import gather_facts

LARGEST_FEED = 1 << 27
"""Elements of random inputs at most."""

Feed = Mapping[str, np.ndarray]
"""An array for each input of a model, by name."""


def input_shapes(
    model: Model, specs: Sequence[InputSpec], known: OpenShapes | None = None
) -> Mapping[str, tuple[int, ...]]:
    """Concrete input shapes: as they are known, else batch size 1 and sizes as the analysis guesses them."""
    told = {spec.name: _told(spec, (known or {}).get(spec.name)) for spec in specs}
    if None not in told.values():
        return {name: shape for name, shape in told.items() if shape is not None}
    return gather_facts(model, read_graph(model), known).shapes


def _told(spec: InputSpec, known: Sequence[int | None] | None) -> tuple[int, ...] | None:
    """An input's shape by what file and user say; None where that leaves a size open."""
    if spec.dims is None:
        return None
    own = known or (None,) * len(spec.dims)
    sizes = (dim if isinstance(dim, int) else size for dim, size in zip(spec.dims, own, strict=True))
    shape = tuple(size for size in sizes if size is not None)
    return shape if len(shape) == len(spec.dims) else None


def random_array(
    rng: np.random.Generator, dtype: np.dtype, size: tuple[int, ...], integers: int | None = None
) -> np.ndarray:
    """Random values: standard normal; 0 to 255 for uint8, 0 to 9 for other integers (often valid as indices).

    Args:
        rng: where they come from.
        dtype: their type.
        size: shape of the array.
        integers: how many different integers there are, where a model may take few as indices.

    Raises:
        InputError: strings, for which there is no random value.
    """
    if dtype.kind == "O":
        raise InputError("random rows cannot be made for text inputs; give data")
    if dtype.kind == "b":
        return rng.integers(0, 2, size).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, integers or (256 if dtype == np.uint8 else 10), size).astype(dtype)
    return rng.standard_normal(size, np.float32).astype(dtype)


def random_feeds(model: Model, seed: int = 0) -> Iterator[Feed]:
    """Random inputs, one set for each guess of symbolic sizes; none where an input has text or unknown rank."""
    values = [value for value in model.proto.graph.input if value.name not in model.constants]
    tried: list[dict[str, tuple[int, ...] | None]] = []
    for guess in guesses(model):
        shapes = {value.name: pinned_shape(value, guess) for value in values}
        if shapes in tried or sum(prod(shape) for shape in shapes.values() if shape is not None) > LARGEST_FEED:
            continue
        tried.append(shapes)
        dtypes = {v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in values}
        if any(dtype.kind == "O" for dtype in dtypes.values()):
            return
        rng = np.random.default_rng(seed)
        known = {name: shape for name, shape in shapes.items() if shape is not None}
        if len(known) == len(values):
            yield {name: random_array(rng, dtypes[name], shape, integers=2) for name, shape in known.items()}


def random_feed(model: Model, batch: int = 1, seed: int = 0, known: OpenShapes | None = None) -> Feed:
    """Random inputs with `batch` rows, or with those of `graph.sizes.rows_a_run`.

    Args:
        model: the model.
        batch: rows.
        seed: of the values.
        known: sizes of inputs, as far as they are known; others are guessed.

    Raises:
        InputError: an input has no known shape.
    """
    specs = input_specs(model)
    batch = rows_a_run(model, known, batch)
    shapes = input_shapes(model, specs, known)
    rng = np.random.default_rng(seed)
    feed = {}
    for spec in specs:
        shape = shapes.get(spec.name)
        if shape is None:
            raise InputError(f"{model.name}: input {spec} has no known shape to make random rows of; give data")
        size = _with_batch(shape, spec, specs, batch)
        require(prod(size) * max(4, spec.dtype.itemsize), f"random rows for input {spec}")
        few = None if spec.dtype == np.uint8 else 2  # valid as rows of any table: BERT has two kinds of tokens
        feed[spec.name] = random_array(rng, spec.dtype, size, few)
    return feed


def _with_batch(shape: tuple[int, ...], spec: InputSpec, specs: Sequence[InputSpec], batch: int) -> tuple[int, ...]:
    """The shape with its batch axis set to this size."""
    symbols = {s.dims[0] for s in specs if s.batched and s.dims and isinstance(s.dims[0], str)}
    return tuple(
        batch if (axis == 0 and spec.batched) or (spec.dims is not None and spec.dims[axis] in symbols) else size
        for axis, size in enumerate(shape)
    )
