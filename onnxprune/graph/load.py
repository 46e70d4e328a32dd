"""Read `.onnx` files. What is damaged or cannot be handled is refused with one clear line."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.text import first_line
from onnxprune.graph.model import Model, from_proto, skeleton

MINIMUM_OPSET = 7


def load(source: Path | str | onnx.ModelProto | Model) -> Model:
    """Read and check a model; external data is mapped, not copied.

    Args:
        source: a path or a protobuf (never changed). A `Model` is returned as it is.

    Raises:
        InputError: the file is missing, empty or not ONNX.
        ModelError: the model is invalid, or older than opset 7.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, onnx.ModelProto):
        return _checked(_inlined(source), "model", None)
    path = Path(source)
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give an .onnx file") from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise InputError(f"{path} is empty")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is not an ONNX file, or is cut off ({error})") from None
    del data
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{path} is not an ONNX file (it holds no graph)")
    return _checked(_inlined(proto), str(path), path.parent)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Local functions replaced by their nodes: labels pass through operators only."""
    if not proto.functions:
        return proto
    from onnx import inliner

    return inliner.inline_local_functions(proto)


def _checked(proto: onnx.ModelProto, name: str, folder: Path | None) -> Model:
    if not any(o.domain in ("", "ai.onnx") and o.version >= MINIMUM_OPSET for o in proto.opset_import):
        versions = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in proto.opset_import) or "none"
        raise ModelError(f"{name}: operator set {MINIMUM_OPSET} or later is needed, the file imports {versions}")
    try:
        readable = _has_text(proto)
    except UnicodeDecodeError:
        readable = False
    if not readable:
        raise ModelError(f"{name}: the file is damaged: a name in it is no UTF-8 text")
    model = from_proto(proto, name, folder)
    try:
        onnx.checker.check_model(skeleton(model))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{name}: not a valid ONNX model: {first_line(error)}") from error
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{name}: the ONNX checker failed: {first_line(error)}") from error
    return model


def _has_text(message: Message) -> bool:
    """Whether all texts in a protobuf can be decoded; those that cannot come out as bytes, or raise."""
    for descriptor, value in message.ListFields():
        text = descriptor.type == descriptor.TYPE_STRING
        if not text and descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        for item in [value] if isinstance(value, str | bytes | Message) else value:
            if isinstance(item, bytes) or (isinstance(item, Message) and not _has_text(item)):
                return False
    return True
