"""Time the allocation program on synthetic networks of the shapes that matter, and print gap, objective and bound.

Widths, couplings and costs are those of real architectures; damage curves are drawn at random in three kinds: `convex`,
`sigmoid` (saturates once a group is destroyed, so neither convex nor concave) and `bumpy` (few large steps).

    python tools/bench_allocation.py [--families resnet56,vgg16] [--curves convex] [--share 0.5] [--seeds 1]
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import AllocationProblem, Budget, CostPolynomial

CURVES = ("convex", "sigmoid", "bumpy")


@dataclass
class Network:
    """Group widths and, for MACs and weights, what each layer contributes."""

    widths: list[int] = field(default_factory=list)
    linear: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    quadratic: dict[tuple[int, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def group(self, width: int) -> int:
        """A new group; its index."""
        self.widths.append(width)
        return len(self.widths) - 1

    def conv(self, source: int, target: int, positions: int, kernel: int = 1) -> None:
        """A layer from one group to another: `positions * kernel` MACs and `kernel` weights per pair of channels."""
        self.quadratic[min(source, target), max(source, target)].append((positions * kernel, kernel))

    def single(self, group: int, positions: int, kernel: int) -> None:
        """A layer with one prunable side: the first, the last, or a depthwise one."""
        self.linear[group].append((positions * kernel, kernel))

    def cost(self, kind: int) -> CostPolynomial:
        """The polynomial of kind 0 (MACs) or 1 (params)."""
        return CostPolynomial(
            0.0,
            {g: sum(each[kind] for each in parts) for g, parts in self.linear.items()},
            {pair: sum(each[kind] for each in parts) for pair, parts in self.quadratic.items()},
        )


def resnet56() -> Network:
    """CIFAR: 27 blocks with one inner group each; three residual streams."""
    net = Network()
    stream = -1
    for width, size in ((16, 32), (32, 16), (64, 8)):
        source, stream = stream, net.group(width)
        if source < 0:
            net.single(stream, size**2, 27)
        else:
            net.conv(source, stream, size**2)
        for block in range(9):
            inner = net.group(width)
            net.conv(source if block == 0 and source >= 0 else stream, inner, size**2, 9)
            net.conv(inner, stream, size**2, 9)
    net.single(stream, 1, 10)
    return net


def resnet50() -> Network:
    """ImageNet: 16 bottlenecks with two inner groups each, four residual streams and the stem."""
    net = Network()
    stream = net.group(64)
    net.single(stream, 112**2, 147)
    for width, size, blocks in ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)):
        source, stream = stream, net.group(4 * width)
        net.conv(source, stream, size**2)
        for block in range(blocks):
            first, second = net.group(width), net.group(width)
            net.conv(source if block == 0 else stream, first, size**2)
            net.conv(first, second, size**2, 9)
            net.conv(second, stream, size**2)
    net.single(stream, 1, 1000)
    return net


def efficientnet() -> Network:
    """B0: expansions with a depthwise convolution and squeeze-excitation, short residual streams."""
    net = Network()
    stream, size = net.group(32), 112
    net.single(stream, size**2, 27)
    stages = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5))
    for expand, width, blocks, stride, kernel in (*stages, (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)):
        source, stream = stream, net.group(width)
        for block in range(blocks):
            inputs = source if block == 0 else stream
            inner = inputs
            if expand > 1:
                inner = net.group(net.widths[inputs] * expand)
                net.conv(inputs, inner, size**2)
            size //= stride if block == 0 else 1
            net.single(inner, size**2, kernel**2)
            squeezed = net.group(max(4, net.widths[inputs] // 4))
            net.conv(inner, squeezed, 1)
            net.conv(squeezed, inner, 1)
            net.conv(inner, stream, size**2)
    head = net.group(1280)
    net.conv(stream, head, size**2)
    net.single(head, 1, 1000)
    return net


def vgg16() -> Network:
    """A chain of 13 convolutions and two fully connected layers of 4096."""
    net = Network()
    last, size = -1, 224
    for width, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            new = net.group(width)
            if last < 0:
                net.single(new, size**2, 27)
            else:
                net.conv(last, new, size**2, 9)
            last = new
        size //= 2
    for kernel in (49, 1):
        new = net.group(4096)
        net.conv(last, new, 1, kernel)
        last = new
    net.single(last, 1, 1000)
    return net


def densenet121() -> Network:
    """Every layer reads all earlier ones of its block: hundreds of pairs."""
    net = Network()
    inputs, size = [net.group(64)], 56
    net.single(inputs[0], 112**2, 147)
    for layers in (6, 12, 24, 16):
        for _ in range(layers):
            bottleneck = net.group(128)
            for each in inputs:
                net.conv(each, bottleneck, size**2)
            inputs.append(net.group(32))
            net.conv(bottleneck, inputs[-1], size**2, 9)
        if layers != 16:
            transition = net.group(sum(net.widths[each] for each in inputs) // 2)
            for each in inputs:
                net.conv(each, transition, size**2)
            inputs, size = [transition], size // 2
    for each in inputs:
        net.single(each, 1, 1000)
    return net


FAMILIES: dict[str, Callable[[], Network]] = {
    "resnet56": resnet56,
    "resnet50": resnet50,
    "efficientnet": efficientnet,
    "vgg16": vgg16,
    "densenet121": densenet121,
}


def damage_curve(rng: np.random.Generator, units: int, kind: str) -> np.ndarray:
    """A random curve `(units + 1,)`, non-increasing in the kept width, 0 at the end; log-normal in size."""
    removed = np.linspace(1, 0, units + 1)
    if kind == "convex":
        curve = np.expm1(rng.uniform(2, 6) * removed)
    elif kind == "sigmoid":
        centre, softness = rng.uniform(0.4, 0.95), rng.uniform(0.05, 0.15)
        curve = 1 / (1 + np.exp((centre - removed) / softness))
        curve = curve - curve[-1]
    else:
        steps = rng.gamma(0.3, size=units) * np.exp(3 * np.linspace(1, 0, units))
        curve = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
    return np.asarray(curve / curve[0] * np.exp(rng.normal()))


def problem(family: str, kind: str, shares: list[float], seed: int, round_to: int = 1) -> AllocationProblem:
    """A random instance: budgets on MACs and, where two shares are given, on params."""
    net = FAMILIES[family]()
    rng = np.random.default_rng(seed)
    costs = [net.cost(0), net.cost(1)]
    budgets = [
        Budget(name, cost, share * cost(net.widths))
        for name, cost, share in zip(("macs", "params"), costs, shares, strict=False)
    ]
    damage = tuple(damage_curve(rng, width, kind) for width in net.widths)
    return AllocationProblem(damage, tuple(budgets), round_to)


def main() -> None:
    """Print a line per instance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--share", default="0.5", help="budgets as shares: MACs[,params]")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gap", type=float, default=1e-3)
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--time-limit", type=float)
    options = parser.parse_args()
    shares = [float(share) for share in options.share.split(",")]
    print(
        f"{'family':13} {'curves':8} seed groups widths  pairs  seconds  nodes  objective      bound       gap  status"
    )
    for family in options.families.split(","):
        for kind in options.curves.split(","):
            for seed in range(options.seeds):
                each = problem(family, kind, shares, seed, options.round_to)
                found = allocate(each, gap=options.gap, time_limit=options.time_limit)
                widths = sum(len(each.widths(g)) for g in range(len(each.damage)))
                pairs = sum(len(b.cost.quadratic) for b in each.budgets[:1] if isinstance(b.cost, CostPolynomial))
                print(
                    f"{family:13} {kind:8} {seed:4} {len(each.damage):6} {widths:6} {pairs:6} {found.seconds:8.1f} "
                    f"{found.nodes:6} {found.objective:10.5f} {found.bound:10.5f} {found.gap:9.2e}  {found.status}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
