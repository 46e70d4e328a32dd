"""Files that are no ONNX files are called what they are, with the way to ONNX."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

import onnxprune
from onnxprune.core.errors import InputError


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name in names:
            packed.writestr(name, b"content")
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros(3))
    return stream.getvalue()


HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
FILES = {
    "checkpoint": (archive("net/data.pkl", "net/version"), "PyTorch checkpoint.*torch.onnx.export"),
    "script": (archive("net/data.pkl", "net/constants.pkl"), "TorchScript archive.*torch.jit.load"),
    "program": (archive("net/archive_format", "net/data/x"), "program of torch.*torch.export.load"),
    "keras": (archive("metadata.json", "config.json", "model.weights.h5"), "model of Keras.*model.export"),
    "npz": (arrays(), "npz file of arrays; rows go to --data"),
    "zip": (archive("folder/model.onnx"), "zip archive; unpack folder/model.onnx"),
    "cut zip": (archive("net/data.pkl")[:40], "zip archive that is cut off"),
    "pickle": (pickle.dumps({"a": 1}), "pickle of Python.*skl2onnx"),
    "old checkpoint": (pickle.dumps(7, 2) + pickle.dumps([], 2) + b"rest", "pickle of Python.*torch.onnx.export"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5 file.*model.export"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite model.*tf2onnx"),
    "ort": (b"\x1c\x00\x00\x00ORTM" + bytes(100), "onnxruntime's own format"),
    "safetensors": (struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), "safetensors file"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(50), "GGUF file"),
    "npy": (b"\x93NUMPY\x01\x00v\x00{}", "array of numpy"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "html": (b"\n<!DOCTYPE html><html></html>", "web page"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_called_what_it_is(kind: str, tmp_path) -> None:
    """All of them were "not an ONNX file, or cut off (Wire format was corrupt)"."""
    content, said = FILES[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    said = said.replace("--data", "data")  # in Python's words
    with pytest.raises(InputError, match=f"model.onnx is not an ONNX file but an? .*{said}") as caught:
        onnxprune.analyze(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no model", b"\x80", b"PK", bytes(8) + b'{"', b"\x00" * 9])
def test_what_nobody_knows_is_only_no_onnx_file(content: bytes) -> None:
    with pytest.raises(InputError, match="is not an ONNX file") as caught:
        onnxprune.analyze(content)
    assert " but " not in str(caught.value)
