"""VGG-16 trained greedily, module by module, with a classifier of its own behind each, and the program of each module.

This is where the paper's decoupled program is at home: what leaves a module was made for its own classifier, whose
hidden units are scored too. A module with its classifier is an ONNX file of its own, from what enters the module to
logits; its program is the joint one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from onnxprune.config import PreprocessConfig, PruneConfig
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.importance.base import ScoreContext, Scorer
from onnxprune.pipeline.prepare import prepare, score
from paper.images import Images
from paper.networks import build, export, input_shape
from paper.recipes import VGG16
from paper.training import fit

_ROWS = 500  # of which each module's program takes ten that its classifier gets right


class Greedy(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A network whose modules learn side by side, each from its own classifier; no gradient passes between them.

    Attributes:
        modules_: a convolution each, with normalisation, ReLU and pooling; the last one is the network's classifier.
        heads: the classifiers behind all but the last.
    """

    def __init__(self, net: nn.Sequential, shape: tuple[int, ...]) -> None:
        """Cut a network in front of every convolution and in front of its classifier.

        Args:
            net: the network; its layers are shared, so that it learns too.
            shape: of one row of its input.
        """
        super().__init__()
        self.modules_, self.heads = nn.ModuleList(), nn.ModuleList()
        x = torch.zeros(shape)
        parts: list[OrderedDict[str, nn.Module]] = []
        for name, layer in net.named_children():
            if isinstance(layer, nn.Conv2d | nn.Flatten):
                parts.append(OrderedDict())
            parts[-1][name] = layer
        for part in parts:
            self.modules_.append(nn.Sequential(part))
            if part is not parts[-1]:
                x = self.modules_[-1].eval()(x)
                self.heads.append(classifier(x.shape[1], x.shape[2]))

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum of all classifiers' cross-entropies for images `(N, C, H, W)`."""
        losses = []
        for module, head in zip(self.modules_, [*self.heads, nn.Identity()], strict=True):
            x = module(x.detach())
            losses.append(nn.functional.cross_entropy(head(x), labels))
        return torch.stack(losses).sum()

    def apart(self, x: torch.Tensor) -> Iterator[tuple[nn.Sequential, torch.Tensor]]:
        """Each module with its classifier, and what enters it for images `(N, C, H, W)`."""
        for module, head in zip(self.modules_, [*self.heads, nn.Sequential()], strict=True):
            yield nn.Sequential(OrderedDict([*module.named_children(), *head.named_children()])), x
            with torch.inference_mode():
                x = module(x)


def classifier(channels: int, side: int) -> nn.Sequential:
    """Pooling to a quarter of the side, 1x1 convolution, pooling to two by two, and two linear layers."""
    small = -(-side // 4)
    end = min(small, 2)
    layers: dict[str, nn.Module] = {"head_pool1": nn.AvgPool2d(side // small)}
    layers |= {"head_conv": nn.Conv2d(channels, channels, 1), "head_bn": nn.BatchNorm2d(channels)}
    layers |= {"head_conv_relu": nn.ReLU(), "head_pool2": nn.AvgPool2d(small // end), "head_flatten": nn.Flatten()}
    layers |= {"head_fc1": nn.Linear(channels * end * end, channels), "head_fc1_relu": nn.ReLU()}
    layers["head_fc2"] = nn.Linear(channels, 10)
    return nn.Sequential(OrderedDict(layers))


def train_greedily(
    images: Images, path: Path, *, width: float, seed: int, epochs: int, say: Callable[[str], None] = print
) -> Greedy:
    """VGG-16 with its modules' classifiers, trained or as it was kept; the network's ONNX file is written too.

    Args:
        images: the data set.
        path: of the ONNX file; weights and the state of training are kept beside it.
        width: share of the units in each layer.
        seed: of weights and rows.
        epochs: passes over the training rows.
        say: told of each epoch.
    """
    shape = input_shape(images.name)
    net = build("vgg16", images.name, seed, width)
    greedy, weights = Greedy(net, shape), path.with_suffix(".pt")
    if weights.exists():
        greedy.load_state_dict(torch.load(weights))
        greedy.eval()
        return greedy
    # Classifiers are made for one size of images.
    recipe = replace(VGG16, half_size=0.0)
    checkpoint = path.with_suffix(".checkpoint")
    fit(greedy, images, recipe, epochs=epochs, seed=seed, checkpoint=checkpoint, loss_of=greedy.loss, say=say)
    export(net, path, shape)
    torch.save(greedy.state_dict(), weights)
    return greedy


def heads_scorer(greedy: Greedy, x: torch.Tensor, y: np.ndarray, folder: Path) -> Scorer:
    """A scorer of the network by the programs of its modules, each with its own classifier.

    Args:
        greedy: the trained network.
        x: images that it was not trained on, `(N, C, H, W)`.
        y: their classes.
        folder: where the modules' files go.
    """

    def score_modules(context: ScoreContext) -> Scores:
        oamip = replace(context.oamip, form="joint", decoupled=False)
        config = PruneConfig(importance="oamip", seed=context.run.seed, threads=context.run.threads, oamip=oamip)
        found: dict[str, GroupScore] = {}
        for number, (module, entering) in enumerate(greedy.apart(x[:_ROWS]), 1):
            path = folder / f"module{number}.onnx"
            export(module.eval(), path, (1, *entering.shape[1:]))
            prepared = prepare(path, (entering.numpy(), y[:_ROWS]), config, PreprocessConfig())
            found |= {group.group: group for group in score(prepared, config, SerialExecutor()).groups}
        # Groups of a module's file have the same names in the network's; those of its classifier are not there.
        return Scores(tuple(found[group.name] for group in context.analysis.groups))

    return score_modules
