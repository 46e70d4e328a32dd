"""Saves the state of a training run, so that it can be resumed."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from onnxprune.calibration.dataset import Dataset
from onnxprune.config import FinetuneConfig
from onnxprune.core.errors import InputError
from onnxprune.core.files import place, replacing
from onnxprune.graph.model import Model, to_proto
from onnxprune.torchnet.network import import_torch


def training_identity(model: Model, teacher: Model | None, data: Dataset, config: FinetuneConfig) -> str:
    """What a checkpoint must agree with to be resumed: models, rows, and options that change the result."""
    options = asdict(config)
    del options["threads"]
    digest = hashlib.sha256(repr((len(data), sorted(options.items()))).encode())
    for one in (model, teacher):
        digest.update(b"" if one is None else to_proto(one).SerializeToString(deterministic=True))
    return digest.hexdigest()


def read_checkpoint(path: Path, wanted: str) -> dict[str, Any] | None:
    """Read a saved state; None where there is no file yet.

    Raises:
        InputError: the file is not a checkpoint, or is one of another training.
    """
    torch = import_torch()
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        identity = state["training_identity"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        raise InputError(
            f"{path} is not a checkpoint of onnxprune ({type(error).__name__}); give another file"
        ) from error
    if identity != wanted:
        raise InputError(
            f"{path} belongs to another training (other model, teacher, data or options); give another file"
        )
    return state


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save a state; the file is written completely or not at all.

    Raises:
        InputError: the file cannot be written, or is a device or a pipe.
    """
    torch = import_torch()
    file = place(path).file
    if file is None:
        raise InputError(f"{path} is no file that a state can be read from again; give a file name")
    try:
        with replacing(file) as partial, partial.open("wb") as stream:
            torch.save(state, stream)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: {error}") from error
