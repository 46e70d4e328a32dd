"""Where results go: links are followed, devices and pipes are written into, and a plain file is replaced whole."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxprune.core.errors import InputError
from onnxprune.core.files import moved, place, refuse_inputs, replacing, same_file, temporary_folder

ROOT = Path(__file__).resolve().parents[2]


def test_a_new_file_and_a_replaced_one(tmp_path: Path) -> None:
    for text in (b"first", b"second, longer", b""):
        place(tmp_path / "a.json").write(text)
        assert (tmp_path / "a.json").read_bytes() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_permissions_of_a_replaced_file_stay(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o640)
    place(tmp_path / "a").write(b"new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("exists", [True, False])
def test_links_are_followed_and_stay(tmp_path: Path, exists: bool) -> None:
    """They were replaced by the file."""
    (tmp_path / "far").mkdir()
    real, link, chain = tmp_path / "far" / "real", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("far/real")
    chain.symlink_to(link)
    if exists:
        real.write_text("old")
    place(chain).write(b"new")
    assert real.read_bytes() == b"new"
    assert link.is_symlink()
    assert chain.is_symlink()
    assert [path.name for path in real.parent.iterdir()] == ["real"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["pipe", "file", "appended file"])
def test_a_link_to_a_descriptor_is_written_through(tmp_path: Path, kind: str) -> None:
    """`--json /dev/stdout` renamed a file over the link; as root that took /dev/stdout away."""
    (tmp_path / "target").write_text("before ")
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader = os.open(tmp_path / "target", os.O_RDONLY)
        writer = os.open(tmp_path / "target", os.O_WRONLY | (os.O_APPEND if "appended" in kind else os.O_TRUNC))
    link = tmp_path / "link"
    link.symlink_to(f"/proc/self/fd/{writer}")
    goal = place(link)
    assert (goal.file, goal.descriptor) == (None, writer)
    goal.write(b"text")
    os.close(writer)
    assert os.read(reader, 100) == (b"before text" if "appended" in kind else b"text")
    os.close(reader)
    assert link.is_symlink()
    with pytest.raises(InputError, match="is closed"):
        place(link)


def test_a_descriptor_that_was_put_elsewhere_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/fd/1")
    reader, writer = os.pipe()
    with moved(1, writer):
        place(tmp_path / "link").write(b"text")
    os.close(writer)
    assert os.read(reader, 100) == b"text"
    os.close(reader)


def test_a_descriptor_that_is_only_read_is_refused(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    (tmp_path / "link").symlink_to(f"/proc/self/fd/{reader}")
    with pytest.raises(InputError, match="not open for writing"):
        place(tmp_path / "link")
    os.close(reader)
    os.close(writer)


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        place(tmp_path / "pipe").write(b"text")
        assert reader.stdout is not None
        assert reader.stdout.read() == b"text"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_device_is_written_into(tmp_path: Path) -> None:
    for name in ("null", "full"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    place(tmp_path / "null").write(b"text")
    with pytest.raises(InputError, match="full cannot be written: No space left"):
        place(tmp_path / "full").write(b"text")
    with pytest.raises(InputError, match="regular file or a pipe"):
        place(tmp_path / "null", model=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_what_no_file_can_be_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "to_folder").symlink_to("folder")
    (tmp_path / "around").symlink_to("around")
    (tmp_path / "lost").symlink_to("nowhere/file")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    wanted = {
        "folder": "is a folder",
        "to_folder": "is a folder",
        "": "is a folder",
        "folder/..": "is a folder",
        "file/a": "is not a folder",
        "nowhere/a": "does not exist",
        "lost": "does not exist",
        "around": "lead nowhere",
        "socket": "neither a regular file nor a pipe",
        "a" * 256: "too long",
        "folder/" * 1000: "too long",
        "a\0b": "null",
        os.fsdecode(b"a\xff"): "no UTF-8",
    }
    before = sorted(tmp_path.rglob("*"))
    for name, message in wanted.items():
        with pytest.raises(InputError, match=message) as found:
            place(tmp_path / name, "--json")
        assert str(found.value).startswith("--json ")
        assert "\n" not in str(found.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path) -> None:
    """Its temporary name was longer, and the run failed at its end."""
    place(tmp_path / ("a" * 255)).write(b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_and_files_that_are_only_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o444)
    with pytest.raises(InputError, match="permission denied"):
        place(tmp_path / "file")
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="Permission denied"):
        place(tmp_path / "new")
    tmp_path.chmod(0o755)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_system_that_takes_no_files_is_refused_before_any_work() -> None:
    """Access rights say that root may write there."""
    with pytest.raises(InputError, match="cannot be written"):
        place(Path("/proc/a.json"))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def half_way(partial: Path) -> None:
        partial.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), replacing(tmp_path / "a") as partial:
        half_way(partial)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_inputs_are_known_under_all_their_names(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    read, other = tmp_path / "folder" / "read", tmp_path / "other"
    for path in (read, other):
        path.touch()
    (tmp_path / "near").symlink_to("folder")
    (tmp_path / "link").symlink_to("folder/read")
    os.link(read, tmp_path / "hard")
    for name in ("folder/read", "near/read", "link", "hard", "folder/../folder/read", "near/../folder/read"):
        with pytest.raises(InputError, match="never changed"):
            refuse_inputs(place(tmp_path / name), [other, read])
        assert same_file(tmp_path / name, read)
    for name in ("other", "new", "folder/new"):
        refuse_inputs(place(tmp_path / name), [read])
        assert not same_file(tmp_path / name, read)
    assert same_file(tmp_path / "near" / "new", tmp_path / "folder" / "new")


# Whatever started the tests may ignore signals (nohup, a shell's background): children inherit that.
UNFINISHED = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from onnxprune.core.files import replacing, temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder, replacing(Path(sys.argv[1], "out")) as partial:
    (folder / "weights").write_bytes(bytes(1000))
    partial.write_bytes(bytes(1000))
    print(flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_left_by_a_signal(tmp_path: Path, how: signal.Signals) -> None:
    command, environment = [sys.executable, "-c", UNFINISHED, str(tmp_path)], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len([*tmp_path.iterdir()]) == 2
        process.send_signal(how)
        assert process.wait() == -how
    assert not [*tmp_path.iterdir()]


def test_handlers_of_others_stay(tmp_path: Path) -> None:
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with temporary_folder(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert caught == [1]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hangup)
