"""The process that runs parts of models apart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxprune.runtime.worker import Worker

GIB = 1 << 30
RELU = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }'
# As many elements as the largest of the input says: a tensor of any size from a small one.
LARGE = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N] x) => (float[M] y) { y = ConstantOfShape (x) }'


@pytest.fixture
def worker() -> Worker:
    return Worker()


def request(folder: Path, text: str = RELU, x: np.ndarray | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(parser.parse_model(text), folder / "model.onnx")
    np.savez(folder / "feeds.npz", **{"0": np.array([-1, 2], np.float32) if x is None else x})
    (folder / "request.json").write_text(json.dumps({"values": True, "most": 1 << 40}))
    return folder


def number(worker: Worker) -> int:
    assert worker._process is not None
    return worker._process.pid


def test_one_process_takes_many_runs(worker: Worker, tmp_path: Path) -> None:
    numbers = set()
    for name in ("a", "b", "c"):
        assert worker.run(request(tmp_path / name), GIB, 20)
        assert json.loads((tmp_path / name / "shapes.json").read_text()) == [["y", [None], [2], "tensor(float)"]]
        with np.load(tmp_path / name / "values.npz") as values:
            np.testing.assert_array_equal(values["0"], [0, 2])
        numbers.add(number(worker))
    assert len(numbers) == 1
    worker.close()


def test_a_run_that_fails_or_asks_for_too_much_memory_leaves_the_next_one_alone(worker: Worker, tmp_path: Path) -> None:
    broken = request(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no model")
    assert not worker.run(broken, GIB, 20)
    assert not worker.run(request(tmp_path / "large", LARGE, np.array([GIB])), GIB, 20)
    assert not (tmp_path / "large" / "values.npz").exists()
    assert worker.run(request(tmp_path / "small"), GIB, 20)
    worker.close()


def test_a_process_that_was_killed_is_started_again(worker: Worker, tmp_path: Path) -> None:
    assert worker.run(request(tmp_path / "a"), GIB, 20)
    first = number(worker)
    os.kill(first, signal.SIGKILL)
    assert worker.run(request(tmp_path / "b"), GIB, 20)
    assert number(worker) != first
    worker.close()


def test_a_large_program_keeps_its_process(tmp_path: Path) -> None:
    """A child's peak begins with what its parent has: each run of a program of 512 MiB or more started a process."""
    code = """
import sys
from pathlib import Path
from onnxprune.runtime.worker import Worker
large, worker = bytearray(b"x") * (600 << 20), Worker()
assert worker.run(Path(sys.argv[1]), 1 << 30, 20)
first = worker._process.pid
assert worker.run(Path(sys.argv[2]), 1 << 30, 20)
assert worker._process.pid == first
"""
    folders = [str(request(tmp_path / name)) for name in "ab"]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_of_the_program_starts_its_own(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from onnxprune.runtime.worker import Worker
worker, folders = Worker(), [Path(name) for name in sys.argv[1:]]
assert worker.run(folders[0], 1 << 30, 20)
first = worker._process.pid
child = os.fork()
assert worker.run(folders[1 + bool(child)], 1 << 30, 20)
assert (worker._process.pid == first) == bool(child)
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker.run(folders[3], 1 << 30, 20)
    print(first)
"""
    folders = [request(tmp_path / name) for name in "abcd"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    deadline = time.monotonic() + 20  # the process ends with the program
    while Path(f"/proc/{done.stdout.strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_in_the_middle_of_a_run_does_not_wait_for_it(tmp_path: Path) -> None:
    """The thread that runs something is not in the fork: its lock would never be let go."""
    code = """
import os, sys
from pathlib import Path
from onnxprune.runtime.worker import Worker
worker = Worker()
worker._lock.acquire()
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert worker.run(Path(sys.argv[1]), 1 << 30, 20)
worker.close()
"""
    command = [sys.executable, "-c", code, str(request(tmp_path / "a"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
