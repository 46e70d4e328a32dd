"""RMSprop with a learning rate that falls along a cosine (needs torch).

The steps are those of `torch.optim.RMSprop` and its `CosineAnnealingLR`, which import torch's compiler: longer than a
small network is trained for.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim.rmsprop import rmsprop


class RMSprop:
    """The optimiser.

    Attributes:
        rate: the learning rate of the next step.
    """

    def __init__(self, weights: Iterable[torch.Tensor], rate: float) -> None:
        """Begin with weights, all of which are changed in each step, at a learning rate."""
        self._weights, self.rate = list(weights), rate
        self._squares = [torch.zeros_like(weight) for weight in self._weights]
        self._steps = [torch.tensor(0.0) for _ in self._weights]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self._weights:
            weight.grad = None

    def step(self) -> None:
        """Change the weights."""
        with torch.no_grad():
            rmsprop(
                self._weights,
                [weight.grad for weight in self._weights],
                self._squares,
                [],
                [],
                self._steps,
                lr=self.rate,
                alpha=0.99,
                eps=1e-8,
                weight_decay=0.0,
                momentum=0.0,
                centered=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"rate": self.rate, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.rate, self._steps = state["rate"], state["steps"]
        self._squares = [kept.to(weight) for kept, weight in zip(state["squares"], self._weights, strict=True)]


class Cosine:
    """The learning rate of an optimiser, from its first value to 0 in so many steps."""

    def __init__(self, optimizer: RMSprop, steps: int) -> None:
        """Begin with an optimiser that has its first learning rate."""
        self._optimizer, self._steps, self._done = optimizer, steps, 0

    def step(self) -> None:
        """Set the learning rate of the next step."""
        self._done += 1
        self._optimizer.rate *= self._height(self._done) / self._height(self._done - 1)

    def _height(self, done: int) -> float:
        return 1 + math.cos(math.pi * done / self._steps)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._done = state["done"]
