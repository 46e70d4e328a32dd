"""Hashes of everything that results depend on: model, calibration rows, options and versions."""

import hashlib
from collections.abc import Mapping

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.core.engine import Provider
from onnxprune.graph.model import Model
from onnxprune.runtime.library import onnxruntime
from onnxprune.version import __version__

_ROWS = 64  # hashed at a time


def fingerprint(model: Model, data: Dataset, options: Mapping[str, object]) -> str:
    """Hash of everything that results depend on: graph, weights, converted rows, options and versions."""
    about = {**options, "onnxprune": __version__, "numpy": np.__version__, "onnxruntime": onnxruntime().__version__}
    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    digest.update(content(model))
    for feed in data.batches(_ROWS):
        for name, array in feed.items():
            _add(digest, name, array)
    return digest.hexdigest()


def provider_entry(provider: Provider) -> Mapping[str, object]:
    """The option that says which execution provider ran the model; none for the plain CPU."""
    return {} if provider == Provider() else {"provider": str(provider)}


def content(model: Model) -> bytes:
    """Hash of a model's graph and weights."""
    digest = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    for name in sorted(model.constants):
        _add(digest, name, model.constants[name])
    return digest.digest()


def _add(digest: "hashlib._Hash", name: str, array: np.ndarray) -> None:
    digest.update(repr((name, array.dtype.str, array.shape)).encode())
    digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes())
