"""Batch normalisation for convolutions that an exporter folded it into, while they are trained.

Exporters fold BatchNormalization into the convolution before it. The network computes the same, but trains badly: steps
that a normalised network takes easily destroy it. So each such convolution `y = W * x + b` is trained as

    y = scale (W * x - mean) / sqrt(var + eps) + shift

with `mean` and `var` from the training rows, and `scale = sqrt(var + eps)`, `shift = mean + b`, which computes the same
at first. Afterwards it is folded again: `W' = W scale / sqrt(var + eps)`, `b' = shift - mean scale / sqrt(var + eps)`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.repair.finetune.network import Network, import_torch

EPSILON = 1e-5
MOMENTUM = 0.1
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True, slots=True)
class Unfolded:
    """One convolution: the names of its weight and bias, which also name the values that replace the bias."""

    weight: str
    bias: str

    def name(self, value: str) -> str:
        """Name of "scale", "shift", "mean" or "var" among the network's tensors."""
        return f"{self.bias}/{value}"

    def folded(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Weight and bias that compute the same without normalisation."""
        weight, scale, shift, mean, var = (
            state[name].detach().cpu().double().numpy()
            for name in (self.weight, *(self.name(value) for value in ("scale", "shift", "mean", "var")))
        )
        factor = scale / np.sqrt(var + EPSILON)
        return {self.weight: weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)), self.bias: shift - mean * factor}


def unfold(network: Network, feeds: Iterable[Mapping[str, Any]]) -> list[Unfolded]:
    """Give every convolution with a bias and no normalisation behind it one of its own.

    Args:
        network: changed in place; it computes the same as before, unless it is training.
        feeds: batches of training rows, for the statistics.

    Returns:
        The convolutions, to be folded again at the end.
    """
    chosen = _candidates(network)
    if not chosen:
        return []
    torch = import_torch()
    sums: dict[int, list[Any]] = {position: [0.0, 0.0, 0] for position in chosen}
    plain = {position: network.rules[position] for position in chosen}
    for position in chosen:
        network.rules[position] = (_measuring(plain[position][0], sums[position]),) * 2
    with torch.no_grad():
        for feed in feeds:
            network(feed)
    for position, one in chosen.items():
        total, squares, count = sums[position]
        mean = total / count
        var = (squares / count - mean**2).clamp(min=_LEAST_VARIANCE)
        bias = network.parameters.pop(one.bias).detach()
        network.parameters[one.name("scale")] = (var + EPSILON).sqrt().to(bias.dtype).requires_grad_()
        network.parameters[one.name("shift")] = (mean + bias).to(bias.dtype).requires_grad_()
        network.buffers[one.name("mean")], network.buffers[one.name("var")] = mean.to(bias.dtype), var.to(bias.dtype)
        node = network.nodes[position]
        names = (one.name(value) for value in ("scale", "shift", "mean", "var"))
        network.nodes[position] = replace(node, inputs=(node.input(0), one.weight, *names))
        network.rules[position] = (_normalised(plain[position][0], False), _normalised(plain[position][0], True))
    return list(chosen.values())


def _candidates(network: Network) -> dict[int, Unfolded]:
    """By position: convolutions with a weight and bias of their own, and no normalisation behind them."""
    found = {}
    for position, node in enumerate(network.nodes):
        weight, bias = node.input(1), node.input(2)
        if node.op_type != "Conv" or not {weight, bias} <= network.parameters.keys():
            continue
        alone = all(len(network.graph.consumers.get(name, ())) == 1 for name in (weight, bias))
        readers = network.graph.consumers.get(node.output(), ())
        if alone and not any(reader.op_type == "BatchNormalization" for reader in readers):
            found[position] = Unfolded(weight, bias)
    return found


def _measuring(rule: Any, sums: list[Any]) -> Any:
    """The rule, adding up values, squares and count of its result without bias, by channel."""

    def run(x: Any, weight: Any, bias: Any) -> Any:
        y = rule(x, weight, None)
        axes = [axis for axis in range(y.dim()) if axis != 1]
        sums[0] = sums[0] + y.double().sum(axes)
        sums[1] = sums[1] + y.double().square().sum(axes)
        sums[2] += y.numel() // y.shape[1]
        return y + bias.reshape(1, -1, *(1,) * (y.dim() - 2))

    return run


def _normalised(rule: Any, training: bool) -> Any:
    from torch.nn import functional

    def run(x: Any, weight: Any, scale: Any, shift: Any, mean: Any, var: Any) -> Any:
        y = rule(x, weight, None)
        return functional.batch_norm(y, mean, var, scale, shift, training, MOMENTUM, EPSILON)

    return run
