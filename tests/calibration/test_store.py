"""Tensors beyond a bound wait in files and come back as they were."""

import errno
import io

import ml_dtypes
import numpy as np
import pytest
from residual import NETWORK, WEIGHTS

import onnxprune
from onnxprune.calibration import store
from onnxprune.calibration.replay import Replay
from onnxprune.calibration.runner import Runner
from onnxprune.calibration.store import Batch, Room
from onnxprune.config import PruneConfig
from onnxprune.core.engine import ONE_CORE
from onnxprune.core.errors import InputError
from onnxprune.core.options import parse_size
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.ops.examples import example

VALUES = {
    "plain": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "strided": np.arange(24).reshape(2, 3, 4)[:, ::2].transpose(2, 0, 1),
    "scalar": np.array(3.5),
    "half": np.ones((2, 2), np.float16),
    "brain": np.ones((2, 2), ml_dtypes.bfloat16),
    "truth": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "text": np.array(["a", "bc"], dtype=object),
    "sequence": [np.ones(2)],
}


@pytest.fixture
def reads(monkeypatch):
    """Shapes of what is read from files."""
    found = []
    read = store._OnDisk.read
    monkeypatch.setattr(store._OnDisk, "read", lambda self: found.append(self.shape) or read(self))
    return found


@pytest.mark.parametrize("limit", [0, 60, float("inf")])
def test_values_come_back_as_they_were(limit, reads):
    batch = Batch(Room(limit), VALUES)
    for name, value in VALUES.items():
        if isinstance(value, np.ndarray):
            assert (batch[name].dtype, batch[name].shape) == (value.dtype, value.shape)
            assert batch[name].tolist() == value.tolist()
        else:
            assert batch[name] is value
    assert bool(reads) == (limit < 100)


def test_room_that_is_given_up_is_used_again(reads):
    room, array = Room(1000), np.zeros(200, np.float32)
    batch = Batch(room, {"a": array})
    batch.change({"a"}, {"b": array})
    assert batch["b"] is not array
    batch.change({"b"}, {"c": array})
    assert batch["c"] is array
    assert [*batch] == ["b", "c"]
    assert reads == [(200,)]


def test_tensors_of_a_session_are_held_in_memory_of_their_own():
    """One tensor in a session's memory kept all of it, so that a run's old and new tensors were there at once."""
    runner = Runner(load(example(NETWORK, WEIGHTS)), ["a"])
    made = runner.run_feed({"x": np.ones((2, 3, 8, 8), np.float32)})
    batch = Batch(Room(), made)
    assert batch["a"].flags.owndata
    assert batch["a"].tolist() == made["a"].tolist()


def test_what_a_step_reads_and_hands_out_is_read_once(reads):
    model = load(example(NETWORK, WEIGHTS))
    feeds = [{"x": np.full((2, 3, 8, 8), value, np.float32)} for value in (1, 2)]
    replay = Replay(model, read_graph(model).nodes, feeds, ONE_CORE, Room(0))
    replay.advance(replay.after("s"))
    found = replay.peek(replay.after("a"), ["s", "a"])
    next(found)
    reads.clear()
    values = next(found)
    assert reads == [(2, 8, 8, 8)]
    np.testing.assert_array_equal(values["a"], np.maximum(values["s"], 0))


def test_a_full_disk_is_an_error_of_one_line(monkeypatch):
    class Full(io.RawIOBase):
        def seek(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        Batch(Room(0), {"a": np.zeros(4, np.float32)})


def test_a_bound_on_memory_changes_no_byte_of_the_result(monkeypatch, reads):
    proto = example(NETWORK, WEIGHTS)
    data = {"x": np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32)}

    def outcome(**options):
        result = onnxprune.prune(proto, data, targets="macs=0.5", threads=1, **options)
        return result.plan.to_json(), {name: a.tobytes() for name, a in result.model.constants.items()}

    free = outcome()
    assert not reads
    # What is left for tensors is a share of the bound; these few fit into any, so the share is narrowed here.
    monkeypatch.setattr(PruneConfig, "room", property(lambda self: 1e4 if self.memory else np.inf))
    assert outcome(memory="1GB") == free
    assert reads


@pytest.mark.parametrize(("text", "size"), [("1GB", 10**9), ("1.5 gb", 1.5e9), ("700M", 7e8), ("2000000000", 2e9)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1TBx", "1 XB", "-1GB", "10MB", "0"])
def test_other_texts_are_no_sizes(text):
    with pytest.raises(InputError, match="memory"):
        parse_size(text)
