"""What a model costs: parameters, multiply-adds and bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """What a model costs.

    Attributes:
        params: elements of floating-point weights (initializers and Constant nodes).
        macs: multiply-adds of Conv, ConvTranspose, Gemm and MatMul with a constant operand at batch 1, without biases.
        bytes: size of the stored weights, floating-point or of at most 8 bits (shapes and indices are not weights).
    """

    params: int
    macs: int
    bytes: int
