"""Write `.onnx` files: checked, and whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.text import first_line
from onnxprune.graph.model import Model, skeleton
from onnxprune.graph.write import write
from onnxprune.structure.check import runs


def save(model: Model, path: Path | str, check: Callable[[Path], None] | None = None) -> None:
    """Write a model. Nothing appears under `path` unless the file is whole, valid and passed `check`.

    Weights go to `<name>.data` beside the file where the original kept external data, or where the file would not fit
    into a protobuf otherwise.

    Args:
        model: what to write.
        path: the file's final name.
        check: called with the written file before it gets its final name; raises where it does not like it. By default
            the file must load and run in onnxruntime.

    Raises:
        InputError: the path cannot be written.
        ModelError: the model is not valid.
    """
    path = Path(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another output path") from None
    try:
        written = folder / path.name
        write(model, written)
        validate(model, written)
        if check is None:
            runs(written, model)
        else:
            check(written)
        for file in sorted(folder.iterdir(), key=lambda f: f == written):  # the model last: it refers to the data
            file.replace(path.parent / file.name)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another output path") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def validate(model: Model, path: Path) -> None:
    """Run the ONNX checker on a written file, and strict shape inference.

    Raises:
        ModelError: the file is not valid.
    """
    try:
        onnx.checker.check_model(str(path))
        onnx.shape_inference.infer_shapes(skeleton(model), strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{model.name}: the result is not a valid model: {first_line(error)}; please report"
        ) from error
