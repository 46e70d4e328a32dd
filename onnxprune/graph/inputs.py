"""The inputs of a model: name, type, shape, and whether there is a batch axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model

Dim = int | str | None
"""A fixed size, a named free one, or an unnamed free one."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: the input's name.
        dtype: numpy type; `object` for strings.
        dims: declared dimensions, None where the model does not say how many there are.
        batched: whether the first axis is the batch.
    """

    name: str
    dtype: np.dtype
    dims: tuple[Dim, ...] | None
    batched: bool

    @property
    def is_float(self) -> bool:
        """Whether the input takes floating-point numbers."""
        return self.dtype.kind == "f" or "float" in self.dtype.name

    @property
    def is_text(self) -> bool:
        """Whether the input takes strings."""
        return self.dtype.kind == "O"

    @property
    def row(self) -> tuple[Dim, ...] | None:
        """The dimensions of one row (without the batch axis); None where they are unknown."""
        return self.dims if self.dims is None or not self.batched else self.dims[1:]

    def __str__(self) -> str:
        kind = "string" if self.is_text else self.dtype.name
        if self.dims is None:
            return f"{self.name!r}: {kind} of any shape"
        return f"{self.name!r}: {kind} [{', '.join('?' if d is None else str(d) for d in self.dims)}]"


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """The inputs that must be given to run the model, in order.

    The batch is the first dimension of the first input that can have one: not of a scalar, of a vector of fixed length,
    or where another axis is called batch. An input whose first dimension is that one (both free, or the same number)
    has a batch axis. None has where data showed that rows are complete inputs (`Model.unbatched`).

    Raises:
        ModelError: an input is not a tensor.
    """
    values = [value for value in model.proto.graph.input if value.name not in model.constants]
    shapes = [_dims(value, model) for value in values]
    sizes = () if model.unbatched else map(_batch_of, shapes)
    batch = next((size for size in sizes if size is not None), None)
    return tuple(
        InputSpec(value.name, _dtype(value), dims, _is_batched(dims, batch))
        for value, dims in zip(values, shapes, strict=True)
    )


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """The batch size that the model is fixed to; None where any is possible."""
    for spec in specs:
        if spec.batched and spec.dims and isinstance(spec.dims[0], int):
            return spec.dims[0]
    return None


def _dims(value: onnx.ValueInfoProto, model: Model) -> tuple[Dim, ...] | None:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "value without a type"
        raise ModelError(f"{model.name}: input {value.name!r} is a {kind}; only models with tensor inputs can be run")
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or None
        for d in value.type.tensor_type.shape.dim
    )


def _dtype(value: onnx.ValueInfoProto) -> np.dtype:
    element = value.type.tensor_type.elem_type
    if element in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return np.dtype(object)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))


def _batch_of(dims: tuple[Dim, ...] | None) -> int | None:
    """The batch size in an input's dimensions: a number, -1 if it is free, None if there is none."""
    if dims is None:
        return -1
    if not dims or _names_other_batch(dims):
        return None
    if isinstance(dims[0], int):
        return dims[0] if len(dims) > 1 else None
    return -1


def _is_batched(dims: tuple[Dim, ...] | None, batch: int | None) -> bool:
    if dims is None:
        return batch is not None
    if not dims or batch is None:
        return False
    return dims[0] == batch if isinstance(dims[0], int) else batch == -1


def _names_other_batch(dims: tuple[Dim, ...]) -> bool:
    return isinstance(dims[0], int) and any(isinstance(d, str) and "batch" in d.lower() for d in dims[1:])
