"""Adam with decoupled weight decay, by torch's own function for it.

`torch.optim.AdamW` calls the same function with the same numbers, but imports torch's compiler at its first step, which
takes longer than to import the rest of torch, and than many a training.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.torchnet.network import import_torch

if TYPE_CHECKING:
    import torch

_DECAYS = (0.9, 0.999)
_EPSILON = 1e-8


class AdamW:
    """The optimiser of Loshchilov and Hutter (2019), with the defaults of `torch.optim.AdamW`.

    Args:
        groups: weights with the decay of each group's weights.
    """

    def __init__(self, groups: Sequence[tuple[Sequence["torch.Tensor"], float]]) -> None:
        self._groups = [(list(weights), decay) for weights, decay in groups]
        self._moments: dict[torch.Tensor, dict[str, torch.Tensor]] = {}

    @property
    def _weights(self) -> list["torch.Tensor"]:
        return [weight for weights, _ in self._groups for weight in weights]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self._weights:
            weight.grad = None

    def step(self, rate: float) -> None:
        """Change the weights that have a gradient, at a learning rate."""
        torch = import_torch()
        from torch.optim.adamw import adamw

        for weights, decay in self._groups:
            learning = [weight for weight in weights if weight.grad is not None]
            for weight in learning:
                if weight not in self._moments:
                    zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                    self._moments[weight] = {"step": torch.tensor(0.0), **zeros}
            moments = [self._moments[weight] for weight in learning]
            with torch.no_grad():
                adamw(
                    learning,
                    [weight.grad for weight in learning],
                    [moment["exp_avg"] for moment in moments],
                    [moment["exp_avg_sq"] for moment in moments],
                    [],
                    [moment["step"] for moment in moments],
                    amsgrad=False,
                    beta1=_DECAYS[0],
                    beta2=_DECAYS[1],
                    lr=rate,
                    weight_decay=decay,
                    eps=_EPSILON,
                    maximize=False,
                )

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes, of this class or of torch's."""
        return {"state": {number: self._moments[w] for number, w in enumerate(self._weights) if w in self._moments}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        weights = self._weights
        for number, kept in state["state"].items():
            moved = {name: kept[name].to(weights[number].device) for name in ("exp_avg", "exp_avg_sq")}
            self._moments[weights[number]] = {"step": kept["step"], **moved}
