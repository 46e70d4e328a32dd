"""A network as a sequence of steps for the program: linear maps, piecewise-linear activations, and maxima.

Data only, picklable; `compile` makes it from a graph and `propagate` runs it for one image.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True)
class LinearStep:
    """A linear step: `output = sum_i maps[i] inputs[i] + bias`.

    Attributes:
        node: the operator, for messages.
        output: name of the result.
        inputs: names of the operands.
        maps: per operand, a matrix `(n_out, n_in)`; None is the identity.
        bias: `(n_out,)`.
    """

    node: str
    output: str
    inputs: tuple[str, ...]
    maps: tuple[csr_array | None, ...]
    bias: np.ndarray


@dataclass(frozen=True, slots=True)
class Activation:
    """A piecewise-linear activation `f(min(a, cap) - (1 - s) U+)`, with or without a score `s`.

    `f(r) = max(r, floor)` where `floor` is finite, else `r` for positive and `slope * r` for negative `r`; a slope of 1
    is a layer without activation.

    Attributes:
        node: the operator, for messages.
        output: name of the result.
        input: name of the pre-activation `a`.
        units: `(n,)` unit whose score applies at each position; 0 where none does.
        cap: upper end (6 for ReLU6), else inf.
        floor: lower end (0 for ReLU), else -inf.
        slope: scalar or `(n,)`, for LeakyRelu and PRelu.
    """

    node: str
    output: str
    input: str
    units: np.ndarray
    cap: float = np.inf
    floor: float = -np.inf
    slope: np.ndarray = field(default_factory=lambda: np.ones(()))


@dataclass(frozen=True, slots=True)
class Maximum:
    """A maximum over windows: `output[i] = max_t input[windows[i, t]]`; entries of -1 lie outside of the tensor."""

    node: str
    output: str
    input: str
    windows: np.ndarray


Step = LinearStep | Activation | Maximum


@dataclass(frozen=True, slots=True)
class StepNetwork:
    """A network as steps, in the order of execution.

    Attributes:
        inputs: pairs of a tensor whose value is known for each image, and its name in the steps.
        steps: in topological order.
        output: name of the result.
    """

    inputs: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    output: str
