"""Writes `.onnx` files: validated first, written completely or not at all, and never over a file that was read."""

import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.files import Place, place, refuse_inputs, same_file, settle, temporary_folder, unless_finished
from onnxprune.core.text import first_line
from onnxprune.graph.external import locations, relocate
from onnxprune.graph.model import Model, skeleton
from onnxprune.graph.negative import infer_shapes
from onnxprune.graph.write import is_apart, write
from onnxprune.structure.check import runs


def save(
    model: Model,
    path: Path | str,
    check: Callable[[Path], None] | None = None,
    protected: Iterable[Path] = (),
    original: Model | None = None,
) -> tuple[Path, ...]:
    """Write a model to a file. The file appears only if it is complete, valid and passes `check`.

    Weights go to `<name>.data` beside the file where the original kept external data, or where the file would not fit
    into a protobuf otherwise; to `<name>.1.data` and so on where that name is taken. An older model under `path` keeps
    its own weights until the new one replaces it, in one step; then the new ones get their name.

    Args:
        model: what to write.
        path: the file's final name.
        check: called with the written file before it gets its final name; raises where it does not like it. By default
            the file must load and run in onnxruntime.
        protected: files that are not written to, besides those that the model was read from.
        original: what the model was made of; a fault that this one has too is none of the result's.

    Returns:
        The files that were made; none where `path` leads to a pipe, a device or a descriptor.

    Raises:
        InputError: the path cannot be written, or is that of a protected file.
        ModelError: the model is not valid.
    """
    goal, kept = check_place(model, Path(path), protected), (*model.files, *protected)
    try:
        if goal.file is None:
            with temporary_folder() as folder:
                goal.write(_tried(model, folder / "model.onnx", None, check, original).read_bytes())
            return ()
        with temporary_folder(goal.file.parent) as folder:
            apart = _free_name(goal.file, kept) if is_apart(model) else None
            _tried(model, folder / goal.file.name, apart, check, original)
            return _placed(folder, goal.file, apart, kept)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another output path") from error


def check_place(model: Model, path: Path, protected: Iterable[Path] = (), name: str = "") -> Place:
    """Check, before any work, that a model can be written to a path, and return where it goes.

    Args:
        model: the model.
        path: the file's final name.
        protected: files that are not written to, besides those that the model was read from.
        name: what messages call the path.

    Raises:
        InputError: the path cannot be written, or is that of a protected file.
    """
    goal = place(path, name, model=True)
    refuse_inputs(goal, (*model.files, *protected), name)
    if is_apart(model):
        what = f"{name} {path}".strip()
        if goal.file is None:
            raise InputError(f"{what}: the model's weights are a file of their own beside it; give a file name")
        if os.path.realpath(path.parent) != str(goal.file.parent):
            raise InputError(f"{what} is a link, and the model's weights go beside its file; give {goal.file}")
        place(goal.file.with_name(f"{goal.file.name}.00.data"), name)
    return goal


def _tried(
    model: Model, written: Path, apart: str | None, check: Callable[[Path], None] | None, original: Model | None
) -> Path:
    """Write the model to a temporary folder and run all checks on it."""
    write(model, written, apart)
    check_valid(model, written, original)
    if check is None:
        runs(written, model)
    else:
        check(written)
    return written


def _placed(folder: Path, file: Path, apart: str | None, kept: Iterable[Path]) -> tuple[Path, ...]:
    """Move the finished files to their final place: first the weights, under an unused name, then the model."""
    if apart is None:
        settle(folder / file.name, file)
        return (file,)
    data = file.with_name(apart)
    replaced = [old for old in _own_data(file) if not any(same_file(old, other) for other in kept)]
    with unless_finished(data):
        settle(folder / apart, data)
        settle(folder / file.name, file)
    for old in replaced:
        old.unlink(missing_ok=True)
    usual = file.with_name(_data_name(file, 0))
    return file, _renamed(folder, file, data, usual) if usual in replaced and usual != data else data


def _renamed(folder: Path, file: Path, data: Path, usual: Path) -> Path:
    """Give a model's weights a name that became free, so that the same command leaves the same files.

    The weights have both names until the model refers to the new one. Where that cannot be, they keep the old one.
    """
    try:
        proto = onnx.ModelProto.FromString(file.read_bytes())
        relocate(proto, data.name, usual.name)
        (folder / file.name).write_bytes(proto.SerializeToString(deterministic=True))
        with unless_finished(usual):
            os.link(data, usual)
            settle(folder / file.name, file)
    except OSError:
        return data
    data.unlink()
    return usual


def _free_name(file: Path, kept: Iterable[Path]) -> str:
    """An unused name for the file that holds the weights."""
    kept = list(kept)
    number = 0
    while True:
        data = file.with_name(_data_name(file, number))
        if not os.path.lexists(data) and not any(same_file(data, other) for other in kept):
            return data.name
        number += 1


def _data_name(file: Path, number: int) -> str:
    return f"{file.name}.{number}.data" if number else f"{file.name}.data"


def _own_data(file: Path) -> list[Path]:
    """Weight files of the model that is about to be replaced, if they are named after it."""
    pattern = re.compile(rf"{re.escape(file.name)}(\.[0-9]+)?\.data")
    if not any(pattern.fullmatch(other.name) for other in file.parent.iterdir()):
        return []
    try:
        old = onnx.ModelProto.FromString(file.read_bytes())
    except (OSError, DecodeError, ValueError):
        return []
    return [data for name in locations(old) if pattern.fullmatch(name) and (data := file.with_name(name)).is_file()]


def check_valid(model: Model, path: Path, original: Model | None = None) -> None:
    """Run the ONNX checker and strict shape inference on a written file.

    Args:
        model: what was written.
        path: the file.
        original: what the model was made of; a step that this one does not pass either says nothing.

    Raises:
        ModelError: the file is not valid.
    """
    steps = (
        (lambda: onnx.checker.check_model(str(path)), onnx.checker.check_model),
        (lambda: _infer(skeleton(model)), _infer),
    )
    for of_result, of_any in steps:
        fault = _fault(of_result)
        if fault and (original is None or _fault(partial(of_any, skeleton(original))) is None):
            raise ModelError(f"{model.name}: the result is not a valid model: {fault}; please report")


def _infer(proto: onnx.ModelProto) -> None:
    infer_shapes(proto, strict=True)


def _fault(step: Callable[[], None]) -> str | None:
    """What one check finds wrong with a model, None where it finds nothing."""
    try:
        step()
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return first_line(error)
    return None
