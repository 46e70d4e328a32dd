"""What a file is that is no ONNX file, by its first bytes, and how a model in it becomes one."""

import io
import zipfile
from collections.abc import Iterable

_TORCH = "export the module with torch.onnx.export"
_KERAS = 'write it with model.export("model.onnx", format="onnx")'
_HUB = "export the original model to ONNX, for example with optimum-cli export onnx"
_STARTS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and h5py write it", _KERAS),
    (b"GGUF", "a GGUF file", _HUB),
    (b"\x93NUMPY", "an array of numpy", "rows go to --data"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (b"<?xml", "an XML file, as OpenVINO writes it", "export the original model to ONNX"),
    (b"<!doctype html", "a web page", "download the file itself"),
)
_AT_FOUR = (
    (b"TFL3", "a TensorFlow Lite model", "convert it with python -m tf2onnx.convert --tflite FILE --output model.onnx"),
    (b"ORTM", "a model in onnxruntime's own format", "give the .onnx file that it was made of"),
)
_MOST_ENTRIES = 10_000
_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")  # of pickle
_HEADER = 8  # bytes of the length that a safetensors file begins with


def foreign(data: bytes) -> str:
    """What the bytes are, and what to do: "a PyTorch checkpoint; export ...". Empty where they are nothing known."""
    start = data[:64].lstrip().lower()
    for beginning, what, how in _STARTS:
        if data.startswith(beginning) or (beginning[:1] == b"<" and start.startswith(beginning)):
            return f"{what}; {how}"
    for mark, what, how in _AT_FOUR:
        if data[4:8] == mark:
            return f"{what}; {how}"
    if data.startswith(b"PK\x03\x04"):
        return _archive(data)
    if data[:1] == b"\x80" and data[1:2] in _PROTOCOLS:
        return f"a pickle of Python; {_TORCH}, or a model of scikit-learn with skl2onnx.to_onnx"
    if data[_HEADER : _HEADER + 2] == b'{"' and 1 < int.from_bytes(data[:_HEADER], "little") <= len(data):
        return f"a safetensors file, weights without a network; {_HUB}"
    return ""


def _archive(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()[:_MOST_ENTRIES]
    except (zipfile.BadZipFile, ValueError, OSError):
        return "a zip archive that is cut off"
    packed = next((name for name in names if name.endswith(".onnx")), "")
    arrays = bool(names) and all(name.endswith(".npy") for name in names)
    kinds = (
        (_has(names, "/constants.pkl"), f"a TorchScript archive; load it with torch.jit.load and {_TORCH}"),
        (_has(names, "/archive_format"), "a program of torch; load it with torch.export.load, for torch.onnx.export"),
        (_has(names, "/data.pkl"), f"a PyTorch checkpoint, as torch.save writes it; {_TORCH}"),
        (_has(names, ".weights.h5"), f"a model of Keras; {_KERAS}"),
        (arrays, "an .npz file of arrays; rows go to --data"),
        (bool(packed), f"a zip archive; unpack {packed}"),
    )
    return next((told for found, told in kinds if found), "a zip archive")


def _has(names: Iterable[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)
