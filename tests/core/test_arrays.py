"""`.npy` and `.npz` files in which anything may be wrong: a whole array, or a `DamagedError`."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core import arrays
from onnxprune.core.arrays import Archive, DamagedError, is_archive, read_npy
from onnxprune.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
HELD = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "c": np.array("text"),
    "d": np.zeros((0, 5), np.int8),
    "e": np.array(["x", "yy"]),
    "f": np.array([True, False]),
    "g": np.arange(3, dtype=">i4"),
    "h": np.arange(3) * 1j,
}


@pytest.mark.parametrize("name", HELD)
def test_what_numpy_writes_is_read(tmp_path: Path, name: str) -> None:
    array = HELD[name]
    np.save(tmp_path / "one.npy", array)
    np.savez(tmp_path / "all.npz", **HELD)
    np.savez_compressed(tmp_path / "small.npz", **HELD)
    assert not is_archive(tmp_path / "one.npy")
    found = [read_npy(tmp_path / "one.npy")]
    for path in (tmp_path / "all.npz", tmp_path / "small.npz"):
        assert is_archive(path)
        with Archive(path) as held:
            assert list(held) == list(HELD)
            found.append(held[name])
    for each in found:
        assert (each.dtype, each.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(each, array)


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


WRONG = {
    "negative": npy("(-5, 8)"),
    "2^64 rows": npy("(18446744073709551616, 8)"),
    "2^62 x 4": npy("(4611686018427387904, 4)", data=bytes(64)),
    "2^32 x 2^32": npy("(4294967296, 4294967296)"),
    "0 x 2^63": npy("(0, 9223372036854775808)"),
    "10^10000 rows": npy(f"({'9' * 4000}, 8)"),
    "cut off": npy("(5, 8)", data=bytes(159)),
    "truth as size": npy("(True, 8)", data=bytes(32)),
    "no tuple": npy("5", data=bytes(20)),
    "a float": npy("(5.0,)", data=bytes(20)),
    "100 axes": npy(f"({'1,' * 100})", data=bytes(4)),
    "deep": npy("(" * 9000 + ")" * 9000),
    "code": npy("__import__('os').abort()"),
    "objects": npy("(2,)", "'|O'", bytes(16)),
    "objects inside": npy("(2,)", "[('a', '|O')]", bytes(16)),
    "no type": npy("(2,)", "'<q9'", bytes(18)),
    "type of 2^31 bytes": npy("(2,)", "'V2147483648'", bytes(16)),
    "no characters": npy("(1,)", "'<U1'", b"\xff\xff\xff\xff"),
    "version 9": npy("(1,)", data=bytes(4), version=9),
    "endless header": b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100),
    "only the beginning": b"\x93NUMPY",
    "header without end": b"\x93NUMPY\1\0\xff\xff{'descr'",
    "nothing": b"",
    "text": b"hello",
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_wrong_is_said(tmp_path: Path, case: str, inside: bool) -> None:
    """Negative numbers of rows were an internal error, and 2^64 an overflow."""
    path = tmp_path / "file"
    if inside:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", WRONG[case])
    else:
        path.write_bytes(WRONG[case])

    def read() -> np.ndarray:
        return Archive(path)["x"] if is_archive(path) else read_npy(path)

    with pytest.raises(DamagedError) as found:
        read()
    assert len(str(found.value)) < 300


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    made = [io.BytesIO(), io.BytesIO()]
    np.savez(made[0], **{name: HELD[name] for name in "abf"})
    np.savez_compressed(made[1], **{name: HELD[name] for name in "abf"})
    return tmp_path_factory.mktemp("archives") / "file.npz", [each.getvalue() for each in made]


@given(st.data())
def test_a_damaged_archive_gives_what_was_stored_or_an_error(
    archives: tuple[Path, list[bytes]], data: st.DataObject
) -> None:
    """zipfile raised whatever its parts raise: an unknown method, a password, a broken stream, an offset below 0."""
    path, whole = archives
    changed = bytearray(whole[data.draw(st.integers(0, 1))])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))
    path.write_bytes(changed[:cut])
    try:
        if not is_archive(path):
            return
        with Archive(path) as held:
            for name in held:
                array = held[name]
                if name in HELD and array.dtype == HELD[name].dtype and array.shape == HELD[name].shape:
                    np.testing.assert_array_equal(array, HELD[name])
    except DamagedError:
        pass


def test_every_bit_of_the_directory(archives: tuple[Path, list[bytes]]) -> None:
    path, whole = archives
    start = whole[1].find(b"PK\1\2")
    read = 0
    for place in range(start, len(whole[1])):
        for bit in range(8):
            changed = bytearray(whole[1])
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                if is_archive(path):
                    with Archive(path) as held:
                        read += sum(len(held[name]) > 0 for name in held)
            except DamagedError:
                continue
    assert read  # dates and comments do not matter


def test_a_small_file_that_stands_for_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(2_000_000))
    assert (tmp_path / "zeros.npz").stat().st_size < 30_000
    monkeypatch.setattr("onnxprune.core.memory.available", lambda: 10_000_000)
    with (
        pytest.raises(InputError, match=r"array 'x' takes 0\.016 GB of memory, and 0\.01 GB are free"),
        Archive(tmp_path / "zeros.npz") as held,
    ):
        held["x"]


def test_large_arrays_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_READ_BYTES", 47)
    for name, array in HELD.items():
        np.save(tmp_path / "one.npy", array)
        found = read_npy(tmp_path / "one.npy")
        assert isinstance(found, np.memmap) == (array.nbytes > 47), name
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("name", ["folder", "missing", "pipe"])
def test_what_is_no_file_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedError):
        is_archive(tmp_path / name)


SHORTENED = """
import os, sys
from pathlib import Path
from onnxprune.core.arrays import read_npy
array = read_npy(Path(sys.argv[1]))
os.truncate(sys.argv[1], 200)
print(array.sum())
"""


def test_rows_that_are_shortened_while_they_are_used_do_not_end_the_process(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones(100_000))
    command = [sys.executable, "-c", SHORTENED, str(tmp_path / "rows.npy")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "100000.0\n"), done.stderr
