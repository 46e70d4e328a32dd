"""How the networks of the paper are trained (needs torch).

RMSprop with a cosine schedule on grey images; Nesterov's momentum with one cycle of the learning rate on CIFAR-10, in
bfloat16 and with channels last for VGG-16, which sees images of half the size first. A run with a checkpoint goes on
behind the last epoch that was done.
"""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from onnxprune.graph.model import Model
from onnxprune.torchnet.network import Network
from paper.images import Images
from paper.networks import build, export, input_shape
from paper.recipes import Recipe, recipe_of


def train(
    network: str,
    images: Images,
    path: Path,
    *,
    seed: int,
    epochs: int,
    width: float = 1.0,
    initial: Path | None = None,
) -> nn.Sequential:
    """Train one network of the paper and write its ONNX file; what was done of it before it was stopped is kept.

    Args:
        network: one of `NETWORKS`.
        images: the data set.
        path: where the trained model goes.
        seed: of the weights, the order of rows and the held-out rows.
        epochs: passes over the training rows.
        width: share of the units that VGG-16 has in each layer.
        initial: where the untrained model goes, if anywhere.
    """
    # Not `use_deterministic_algorithms`, which imports the compiler: two seconds.
    torch.set_deterministic_debug_mode("error")
    net, shape = build(network, images.name, seed, width), input_shape(images.name)
    if initial is not None:
        export(net.eval(), initial, shape)
    recipe = recipe_of(network, images.name)
    fit(net, images, recipe, epochs=epochs, seed=seed, checkpoint=path.with_suffix(".checkpoint"))
    export(net, path, shape)
    return net


def fit(
    net: nn.Module,
    images: Images,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    checkpoint: Path | None = None,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train in place on all rows that are not held out; images of CIFAR-10 are mirrored and shifted.

    Args:
        net: what is trained.
        images: the data set.
        recipe: how.
        epochs: passes over the rows.
        seed: of the rows held out, their order, and what is done to images.
        checkpoint: file of the state after each epoch; where it exists, training goes on from it, and it is removed at
            the end.
        loss_of: the loss of images and their classes; cross-entropy of what the network gives by default.
        say: told of each epoch.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, _ = images.split(seed)
    x, y = images.scaled(images.train_x[rows]).to(device), torch.from_numpy(images.train_y[rows]).to(device)
    net.to(device).train()
    if recipe.bfloat16:
        net.to(memory_format=torch.channels_last)
    steps = epochs * -(-len(x) // recipe.batch)
    optimizer, schedule = _optimizer(net, recipe, steps)
    generator = torch.Generator().manual_seed(seed)
    loss_of = loss_of or (lambda inputs, labels: nn.functional.cross_entropy(net(inputs), labels))
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    done = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint)
        done = state.pop("epochs")
        generator.set_state(state.pop("generator"))
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(done, epochs):
        began, total = perf_counter(), 0.0
        small = epoch < round(recipe.half_size * epochs)
        _let_pools_take_single_pixels(net, small)
        for index in torch.randperm(len(x), generator=generator).split(recipe.batch):
            inputs, labels = x[index.to(device)], y[index.to(device)]
            if images.name == "cifar10":
                inputs = augmented(inputs, recipe.shift, generator)
            inputs = nn.functional.avg_pool2d(inputs, 2) if small else inputs
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=recipe.bfloat16):
                loss = loss_of(inputs, labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        say(f"epoch {epoch + 1}/{epochs}: loss {total / len(x):.4f}, {perf_counter() - began:.0f} s")
        if checkpoint is not None:
            kept: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            partial = checkpoint.with_suffix(".partial")
            torch.save(kept | {"epochs": epoch + 1, "generator": generator.get_state()}, partial)
            partial.replace(checkpoint)
    net.to("cpu", memory_format=torch.contiguous_format).eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def retrained(model: Model, images: Images, recipe: Recipe, *, epochs: int, seed: int, checkpoint: Path) -> Model:
    """An ONNX model, one image in and logits out, trained further in the way of `fit`."""
    net = _Imported(model)
    fit(net, images, recipe, epochs=epochs, seed=seed, checkpoint=checkpoint)
    return net.network.written_back(model)


class _Imported(nn.Module):  # type: ignore[misc]  # torch has no types here
    """An ONNX model as a torch module; normalisation uses the statistics of the batch while it trains."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = Network(model)
        self.weights, self.constants = nn.ParameterList(), nn.ParameterList()
        for name, tensor in self.network.parameters.items():
            self.network.parameters[name] = nn.Parameter(tensor)
            self.weights.append(self.network.parameters[name])
        for name, tensor in self.network.buffers.items():
            if tensor.is_floating_point():
                self.network.buffers[name] = nn.Parameter(tensor, requires_grad=False)
                self.constants.append(self.network.buffers[name])

    def train(self, mode: bool = True) -> "_Imported":
        self.network.training = mode
        super().train(mode)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (given,) = self.network.graph.inputs
        (logits,) = self.network({given: x}).values()
        return logits


def _optimizer(net: nn.Module, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """The optimiser and its schedule of the learning rate."""
    if recipe.momentum is None:
        plain = torch.optim.RMSprop(net.parameters(), lr=recipe.lr)
        return plain, torch.optim.lr_scheduler.CosineAnnealingLR(plain, steps)
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=True,
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, cycle_momentum=False)
    return optimizer, cycle


def _let_pools_take_single_pixels(net: nn.Module, small: bool) -> None:
    """With images of half the size the last pool's input may be one pixel, which it then hands on."""
    for module in net.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = small


def augmented(x: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Half of the images mirrored, each shifted by up to some pixels, with black around it.

    Args:
        x: `(N, C, H, W)`.
        shift: pixels.
        generator: of what happens to an image.
    """
    count, _, height, width = x.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    down, across = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns) + across
    rows = torch.arange(height) + down
    padded = nn.functional.pad(x, (shift, shift, shift, shift)).movedim(1, -1)
    number = torch.arange(count)[:, None, None]
    return padded[number, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
