"""Reads folders of images (needs the extra `images`)."""

import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from math import isqrt, prod
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.arrange import channels_first
from onnxprune.calibration.held import LABELS, Held
from onnxprune.calibration.rows import choose, wanted
from onnxprune.calibration.sources import IMAGES
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.core.text import first_line
from onnxprune.graph.inputs import InputSpec

_TOO_LONG = 10  # for a class number

# What decoders raise for files that are not as they should be.
_DAMAGED: tuple[type[Exception], ...] = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RuntimeError, MemoryError, struct.error, zlib.error),
)

# Decoded images above this many bytes are kept in a temporary file instead of memory.
_IN_MEMORY = 1 << 30


def find_images(folder: Path) -> tuple[list[Path], np.ndarray | None, tuple[str, ...]]:
    """Image files of a folder, their class numbers, and the classes' names.

    With images in subfolders, a subfolder is a class: numbered in the order of the sorted names, or by the name itself
    where all names are whole numbers below 10^9. Images directly in the folder have no labels.

    Raises:
        InputError: there are images both in the folder and in its subfolders.
    """
    flat = _images_in(folder)
    classes = {sub.name: files for sub in sorted(folder.iterdir()) if sub.is_dir() and (files := _images_in(sub))}
    if flat and classes:
        raise InputError(
            f"{folder} holds images beside the class folder {next(iter(classes))!r}; keep one or the other"
        )
    if not classes:
        return flat, None, ()
    numbered = all(name.isascii() and name.isdigit() and len(name) < _TOO_LONG for name in classes)
    numbers = [int(name) if numbered else position for position, name in enumerate(classes)]
    files = [file for group in classes.values() for file in group]
    labels = np.repeat(np.asarray(numbers, np.int64), [len(group) for group in classes.values()])
    return files, labels, tuple(classes)


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in IMAGES and not f.name.startswith(".") and f.is_file()
    )


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder of images (and not of arrays or ONNX test data)."""
    if not path.is_dir() or any(f.suffix.lower() in (".npz", ".npy") and f.name[0] != "." for f in path.iterdir()):
        return False
    tensors = (path / "input_0.pb").is_file() or any(f.is_dir() for f in path.glob("test_data_set_*"))
    return not tensors and bool(find_images(path)[0])


def read_images(
    folder: Path, specs: Sequence[InputSpec], preprocess: PreprocessConfig, limit: int | None, seed: int
) -> tuple[Held, tuple[str, ...]]:
    """Read a folder of images as uint8 `(rows, H, W, C)`, with class labels and names.

    Only the chosen images are decoded.

    Raises:
        InputError: the model takes no single image, Pillow is missing, or an image cannot be read or has another size.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise InputError(f"{folder}: reading images needs Pillow (extra images): pip install pillow") from error
    if len(specs) != 1:
        raise InputError(
            f"{folder}: a folder of images feeds one input, the model takes {wanted(specs)}; give an .npz file"
        )
    spec = specs[0]
    files, labels, classes = find_images(folder)
    chosen = choose(len(files), limit, seed)
    channels, size = _image_of(spec, preprocess)
    if preprocess.size is not None and size is None:
        size = (preprocess.size, preprocess.size)
    images: np.ndarray | None = None
    damaged: tuple[type[Exception], ...] = (*_DAMAGED, UnidentifiedImageError, Image.DecompressionBombError)
    for position, index in enumerate(chosen):
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(files[index]) as stored:
                image = ImageOps.exif_transpose(stored).convert("L" if channels == 1 else "RGB")
                pixels = np.asarray(_sized(image, preprocess.size, size, files[index]), np.uint8)
        except damaged as error:
            raise InputError(f"{files[index]} cannot be read as an image: {first_line(error)}") from error
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        if images is None:
            images = _empty((len(chosen), *pixels.shape))
        if pixels.shape != images.shape[1:]:
            raise InputError(
                f"{folder}: {files[index].name} is {pixels.shape[1]}x{pixels.shape[0]} (width x height), "
                f"{files[chosen[0]].name} is {images.shape[2]}x{images.shape[1]}; give --size to resize and crop"
            )
        images[position] = pixels
    if images is None:
        raise InputError(f"{folder}: no images are chosen")
    arrays = {spec.name: images} if labels is None else {spec.name: images, LABELS: labels[chosen]}
    return Held(arrays, str(folder)), classes


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    if prod(shape) <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="onnxprune-") as file:  # the mapping keeps the unlinked file alive
        try:
            if hasattr(os, "posix_fallocate"):  # a disk that is full must say so now, not when the mapping is written
                os.posix_fallocate(file.fileno(), 0, prod(shape))
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: {shape[0]} images of {shape[2]}x{shape[1]} take {prod(shape) / 1e9:.3g} GB "
                f"there ({error.strerror}); set TMPDIR to a folder on a larger disk, or give fewer rows (--images)"
            ) from error
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _image_of(spec: InputSpec, preprocess: PreprocessConfig) -> tuple[int, tuple[int, int] | None]:
    """Number of image channels that an input takes, and its `(height, width)` where the model fixes it."""
    row = spec.row
    if row is None:
        return 3, None
    if len(row) == 3:
        sizes = tuple(d if isinstance(d, int) else 0 for d in row)
        first = preprocess.layout == "nchw" or (
            preprocess.layout == "auto" and (channels_first(sizes) or (row[0] in (1, 3) and row[2] not in (1, 3)))
        )
        channels, height, width = row if first else (row[2], row[0], row[1])
    elif len(row) == 2:
        channels, height, width = (1, *row) if row[1] != 1 else (1, *_square(row[0]))
    elif len(row) == 1:
        side = _square(row[0])
        if side == (None, None) and isinstance(row[0], int) and row[0] % 3 == 0:
            channels, (height, width) = 3, _square(row[0] // 3)
        else:
            channels, (height, width) = 1, side
    else:
        channels = height = width = None
    if isinstance(channels, int) and channels not in (1, 3):
        raise InputError(f"the model's input {spec} takes no images of 1 or 3 channels")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return channels if isinstance(channels, int) else 3, size


def _square(pixels: Any) -> tuple[int, int] | tuple[None, None]:
    if isinstance(pixels, int) and isqrt(pixels) ** 2 == pixels:
        return isqrt(pixels), isqrt(pixels)
    return None, None


def _sized(image: Any, short_side: int | None, size: tuple[int, int] | None, path: Path) -> Any:
    """Resize the image's short side, then crop the centre to `(height, width)`."""
    from PIL import Image

    if short_side is None:
        if size is not None and (image.height, image.width) != size:
            raise InputError(
                f"{path} is {image.width}x{image.height} (width x height), the model takes {size[1]}x{size[0]}; "
                f"give --size {min(size)} to resize and crop"
            )
        return image
    height, width = size or (short_side, short_side)
    factor = short_side / min(image.width, image.height)
    target = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if target[0] < width or target[1] < height:
        raise InputError(
            f"{path} is {target[0]}x{target[1]} after --size {short_side}, smaller than the model's {width}x{height}; "
            f"give --size {max(height, width)} or more"
        )
    if target != image.size:
        image = image.resize(target, Image.Resampling.BILINEAR)
    left, top = (target[0] - width) // 2, (target[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
