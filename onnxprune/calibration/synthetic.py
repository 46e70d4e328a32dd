"""Made-up rows where there are no data: noise that is smooth as images and sound are, with edges and tones in it.

White noise has nothing that early layers look for. Natural signals have: their spectrum falls with frequency (Field,
"Relations between the statistics of natural images and the response properties of cortical cells", 1987), images have
edges, sound has harmonics. What a model's task is about is in neither.
"""

import numpy as np

from onnxprune.runtime.feeds import random_array

_LEAST = 8  # places along an axis from which on neighbours are alike
_FALL = (0.8, 2.0)  # powers of the frequency that amplitudes fall with, in images
_SIGNAL_FALL = (0.3, 1.5)
_OWN = 0.4  # what channels have of their own, beside what they share
_SHAPES = 5  # at most so many in an image
_HARMONICS = 8
_MIDDLE, _SPREAD = 127.5, 50.0  # of bytes


def synthetic_array(
    rng: np.random.Generator, dtype: np.dtype, size: tuple[int, ...], integers: int | None = None
) -> np.ndarray:
    """Made-up values: images or signals along the one or two longest axes of a row, else random ones.

    Args:
        rng: where they come from.
        dtype: their type; bytes are spread around 127.5, floating-point numbers have a spread of about 1.
        size: shape of the array, rows first.
        integers: how many different integers there are, where they are numbers of rows of a table.
    """
    spatial = _spatial(size)
    if not is_smooth(dtype, size) or (dtype.kind != "f" and integers is not None):
        return random_array(rng, dtype, size, integers)
    others = [axis for axis in range(1, len(size)) if axis not in spatial]
    order = [0, *others, *spatial]
    sizes = tuple(size[axis] for axis in spatial)
    channels = int(np.prod([size[axis] for axis in others], dtype=np.int64))
    make = _image if len(sizes) == 2 else _signal
    rows = np.stack([make(rng, channels, sizes).astype(np.float32) for _ in range(size[0])])
    array = rows.reshape([size[axis] for axis in order]).transpose(np.argsort(order))
    if dtype == np.uint8:
        array = np.clip(np.rint(_MIDDLE + _SPREAD * array), 0, 255)
    return np.ascontiguousarray(array, dtype)


def is_smooth(dtype: np.dtype, size: tuple[int, ...]) -> bool:
    """Whether made-up values of this type and shape, rows first, are images or signals and not drawn one by one."""
    return bool(_spatial(size)) and (dtype.kind == "f" or dtype == np.uint8)


def _spatial(size: tuple[int, ...]) -> list[int]:
    """The one or two longest axes of a row, along which neighbours are alike."""
    long = sorted((axis for axis in range(1, len(size)) if size[axis] >= _LEAST), key=lambda axis: -size[axis])
    return sorted(long[:2])


def _noise(rng: np.random.Generator, sizes: tuple[int, ...], fall: float) -> np.ndarray:
    """Noise of mean 0 and spread 1 whose amplitudes fall with frequency `f` as `f ** -fall`."""
    steps = np.meshgrid(*(np.fft.fftfreq(size) * size for size in sizes), indexing="ij")
    frequency = np.sqrt(sum(np.square(step) for step in steps))
    frequency.flat[0] = 1.0
    phases = rng.standard_normal(sizes) + 1j * rng.standard_normal(sizes)
    return _scaled(np.fft.ifftn(phases / frequency**fall).real)


def _scaled(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / max(values.std(), 1e-12))


def _image(rng: np.random.Generator, channels: int, sizes: tuple[int, ...]) -> np.ndarray:
    """`(channels, H, W)`: channels that mostly agree, and some ellipses and half planes with edges."""
    shared = _noise(rng, sizes, rng.uniform(*_FALL))
    image = np.stack([shared + _OWN * _noise(rng, sizes, 1.5) for _ in range(channels)])
    y, x = np.mgrid[: sizes[0], : sizes[1]]
    for _ in range(rng.integers(1, _SHAPES)):
        turn, at = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1, 2) * sizes
        along = (x - at[1]) * np.cos(turn) + (y - at[0]) * np.sin(turn)
        across = (y - at[0]) * np.cos(turn) - (x - at[1]) * np.sin(turn)
        radii = rng.uniform(2, np.array(sizes) / 2)
        inside = (along / radii[1]) ** 2 + (across / radii[0]) ** 2 < 1 if rng.random() < 0.7 else along > 0
        shade = rng.normal(0, 1.2) + _OWN * rng.normal(0, 1.2, (channels, 1))
        image[:, inside] = 0.3 * image[:, inside] + shade
    return np.asarray(_scaled(image) * rng.uniform(0.5, 1.3) + rng.normal(0, 0.3, (channels, 1, 1)))


def _signal(rng: np.random.Generator, channels: int, sizes: tuple[int, ...]) -> np.ndarray:
    """`(channels, L)`: channels that mostly agree, and a tone with harmonics."""
    (length,) = sizes
    shared = _noise(rng, sizes, rng.uniform(*_SIGNAL_FALL))
    first = np.exp(rng.uniform(np.log(3), np.log(max(length / 8, 4))))
    turns = 2 * np.pi * first * np.arange(length) / length
    for harmonic in range(1, rng.integers(2, _HARMONICS + 1)):
        shared = shared + rng.exponential(1.5) / harmonic * np.sin(harmonic * turns + rng.uniform(0, 2 * np.pi))
    own = _OWN * (channels > 1)
    return np.stack([_scaled(shared + own * _noise(rng, sizes, 1.0)) for _ in range(channels)])
