"""Loads `.onnx` files. Damaged or unsupported files are refused with a clear error of one line."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import onnx
from google.protobuf.message import DecodeError, Message

from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.files import open_to_read, read_up_to
from onnxprune.core.text import first_line
from onnxprune.graph.declared import as_checked, corrected, dense, in_order, with_maps_told, with_types
from onnxprune.graph.external import DataFolder
from onnxprune.graph.foreign import foreign
from onnxprune.graph.functions import inlined
from onnxprune.graph.lineage import noted
from onnxprune.graph.model import Model, brought_together, from_proto, skeleton

MINIMUM_OPSET = 7
_LARGEST_FILE = 1 << 31


class Holding(Protocol):
    """What holds a loaded model, as the results of `onnxprune.prune` and `onnxprune.finetune` do."""

    @property
    def model(self) -> Model:
        """The model."""


def load(source: Path | str | bytes | onnx.ModelProto | Model | Holding) -> Model:
    """Load and check a model. Of external data the first GiB is read, the rest memory-mapped.

    Args:
        source: a path, the bytes of a file, or a protobuf (never changed). A `Model` is returned as it is, and so is
            what a result holds.

    Raises:
        InputError: the file is missing, empty or not ONNX.
        ModelError: the model is invalid, or older than opset 7.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, onnx.ModelProto):
        return _checked(source, "model", None)
    if isinstance(source, bytes | bytearray | memoryview):
        return _checked(_parsed(bytes(source), "the model given as bytes"), "model", None)
    held = getattr(source, "model", None)
    if isinstance(held, Model):
        return held
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"a model is a path, the bytes of a file, a ModelProto or a result, not {type(source).__name__}"
        )
    path = Path(source)
    model = _checked(_parsed(_read(path), str(path)), str(path), path)
    return replace(model, files=(path.resolve(), *model.files))


def _parsed(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        if what := foreign(data):
            raise InputError(f"{name} is not an ONNX file but {what}") from None
        raise InputError(f"{name} is not an ONNX file, or is cut off ({error})") from None
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        what = foreign(data)
        raise InputError(f"{name} is not an ONNX file {f'but {what}' if what else '(it holds no graph)'}")
    return proto


def _read(path: Path) -> bytes:
    """Read the bytes of a file or pipe.

    Raises:
        InputError: it is missing, empty, larger than any ONNX file, or no file.
    """
    try:
        with open_to_read(path) as file:
            about = os.fstat(file.fileno())
            if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
                raise InputError(f"{path} is a device; give an .onnx file")
            data = read_up_to(file, _LARGEST_FILE + 1) if about.st_size <= _LARGEST_FILE else None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give an .onnx file") from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if data is None or len(data) > _LARGEST_FILE:
        raise InputError(f"{path} is not an ONNX file (it is larger than 2 GiB, the most that one can be)")
    if not data:
        raise InputError(f"{path} is empty")
    return data


def _checked(proto: onnx.ModelProto, name: str, path: Path | None) -> Model:
    if not any(o.domain in ("", "ai.onnx") and o.version >= MINIMUM_OPSET for o in proto.opset_import):
        versions = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in proto.opset_import) or "none"
        raise ModelError(f"{name}: operator set {MINIMUM_OPSET} or later is needed, the file imports {versions}")
    try:
        readable = _has_text(proto)
    except UnicodeDecodeError:
        readable = False
    if not readable:
        raise ModelError(f"{name}: the file is damaged: a name in it is no UTF-8 text")
    linked = path.resolve().parent if path is not None and path.is_symlink() else None
    data = DataFolder(name, None if path is None else path.parent, linked)
    model = from_proto(dense(in_order(inlined(brought_together(proto, data), name)), name), name, data)
    try:
        model = with_types(model)
        onnx.checker.check_model(as_checked(skeleton(model)))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{name}: not a valid ONNX model: {first_line(error)}") from error
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{name}: the ONNX checker failed: {first_line(error)}") from error
    return noted(with_maps_told(corrected(model)))


def _has_text(message: Message) -> bool:
    """Whether all strings in a protobuf are valid text."""
    for descriptor, value in message.ListFields():
        text = descriptor.type == descriptor.TYPE_STRING
        if not text and descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        for item in [value] if isinstance(value, str | bytes | Message) else value:
            if isinstance(item, bytes) or (isinstance(item, Message) and not _has_text(item)):
                return False
    return True
