"""How each network of the paper is trained: learning rates, batches, and what is done to images."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Attributes:
        lr: the learning rate: the first one, or the largest one of the cycle.
        batch: images a step.
        shift: pixels by which an image of CIFAR-10 is shifted at most.
        momentum: Nesterov's, with one cycle of the learning rate; None for RMSprop.
        weight_decay: with momentum only.
        bfloat16: whether layers compute in it, with channels last.
        half_size: share of the epochs, the first ones, in which images are of half the size and steps take less time.
    """

    lr: float = 1e-3
    batch: int = 64
    shift: int = 4
    momentum: float | None = None
    weight_decay: float = 5e-4
    bfloat16: bool = False
    half_size: float = 0.0


VGG16 = Recipe(lr=0.1, batch=128, momentum=0.9, bfloat16=True, half_size=0.5)
# A network this small learns less from images that are shifted further.
LENET5 = Recipe(lr=0.05, batch=128, shift=1, momentum=0.9, weight_decay=1e-4)


def recipe_of(network: str, dataset: str) -> Recipe:
    """How a network of the paper is trained on a data set."""
    if network == "lenet5" and dataset == "cifar10":
        return LENET5
    return VGG16 if network == "vgg16" else Recipe()
