"""Data augmentation: mirrored and shifted images, and mixed pairs of rows (mixup)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.config import FinetuneConfig
from onnxprune.core.errors import InputError

_IMAGE_CHANNELS = (1, 3, 4)
# With a teacher: it knows what mixed rows should give, and few rows go further.
_MIXUP = 1.0


def image_layout(shape: tuple[int, ...]) -> str | None:
    """The layout ("nchw" or "nhwc") of a batch of images with 1, 3 or 4 channels; None for other data."""
    if len(shape) != 4:
        return None
    if shape[1] in _IMAGE_CHANNELS:
        return "nchw"
    return "nhwc" if shape[3] in _IMAGE_CHANNELS else None


def settled(config: FinetuneConfig, probe: Dataset, teacher: bool) -> FinetuneConfig:
    """The options with the default for `mixup` filled in: on with a teacher, if rows can be mixed.

    Args:
        config: options.
        probe: a few rows.
        teacher: whether a teacher says what mixed rows should give.

    Raises:
        InputError: images are asked to be changed and there are none, or mixing is not possible.
    """
    feeds = probe.feeds()
    shapes = {name: array.shape for name, array in feeds.items()}
    mixable = teacher and not probe.whole and all(array.dtype.kind == "f" for array in feeds.values())
    if (config.flip or config.shift) and not any(image_layout(shape) for shape in shapes.values()):
        shown = ", ".join(f"{name}: {list(shape)}" for name, shape in shapes.items())
        raise InputError(f"--flip and --shift are for images, and no input is one ({shown}); leave them out")
    if config.mixup and not mixable:
        raise InputError("--mixup needs a teacher, and rows of floating-point numbers; leave it out")
    return config if config.mixup is not None else replace(config, mixup=_MIXUP if mixable else 0.0)


def augment(feed: Mapping[str, Any], config: FinetuneConfig, rng: np.random.Generator) -> dict[str, Any]:
    """A randomly changed copy of a batch.

    Images are mirrored with probability 1/2 and shifted by up to `shift` pixels on both axes, each row by its own
    amount, with their border pixels repeated. Then every row is mixed with another, `w x_i + (1 - w) x_j` with one `w`
    from Beta(a, a) a batch (Zhang et al.: "mixup: Beyond empirical risk minimization", 2018).
    """
    changed = {}
    for name, x in feed.items():
        layout = image_layout(tuple(x.shape))
        changed[name] = x if layout is None else _moved(x, layout, config, rng)
    if config.mixup:
        rows = len(next(iter(changed.values())))
        weight, other = float(rng.beta(config.mixup, config.mixup)), rng.permutation(rows)
        changed = {name: weight * x + (1 - weight) * x[other.tolist()] for name, x in changed.items()}
    return changed


def _moved(x: Any, layout: str, config: FinetuneConfig, rng: np.random.Generator) -> Any:
    """Mirror and shift images."""
    if not (config.flip or config.shift):
        return x
    import torch

    down, across = (2, 3) if layout == "nchw" else (1, 2)
    rows, height, width = len(x), x.shape[down], x.shape[across]
    offsets = rng.integers(-config.shift, config.shift + 1, (2, rows, 1))
    y = np.clip(np.arange(height) + offsets[0], 0, height - 1)
    column = np.arange(width)[None].repeat(rows, 0)
    if config.flip:
        column = np.where(rng.random((rows, 1)) < 0.5, column[:, ::-1], column)
    column = np.take_along_axis(column, np.clip(np.arange(width) + offsets[1], 0, width - 1), 1)
    channels_last = x.movedim(1, -1) if layout == "nchw" else x
    number = torch.arange(rows, device=x.device)[:, None, None]
    at_y = torch.from_numpy(y).to(x.device)[:, :, None]
    at_x = torch.from_numpy(column).to(x.device)[:, None, :]
    moved = channels_last[number, at_y, at_x]
    return moved.movedim(-1, 1) if layout == "nchw" else moved
