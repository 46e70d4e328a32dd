"""What a run holds in memory, told before it; and the one batch of `--shape` and of times."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.errors import InputError
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.graph.sizes import rows_a_run
from onnxprune.ops.examples import example
from onnxprune.ops.facts import gather_facts
from onnxprune.runtime import room
from onnxprune.runtime.room import peak_bytes
from onnxprune.structure.check import RemovalCheck
from onnxprune.structure.removal import remove
from onnxprune.structure.save import save

HOW = {"importance": "magnitude", "repair": False, "targets": "macs=0.7"}


def network(batch: str = "N") -> onnx.ModelProto:
    return example(
        f"""g (float[{batch},3,H,W] x) => (float[{batch},4,A,B] y) {{
        h = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (h)
        y = Conv (r, w2) }}""",
        {"w1": (64, 3, 3, 3), "w2": (4, 64, 1, 1)},
    )


def peak(text: str, element: int, **weights: tuple[int, ...]) -> int:
    model = load(example(text, weights))
    graph = read_graph(model)
    facts = gather_facts(model, graph)
    sizes = {name: element * int(np.prod(shape)) for name, shape in facts.shapes.items() if name not in weights}
    return peak_bytes(graph, facts, sizes)


def test_peaks_by_hand() -> None:
    """In the middle of `y` there are `r` (64 a place, in the place of `h`) and `y` (4); of `h`, `x` (3) and `h`."""
    chain = "h = Conv (x, w1) r = Relu (h) y = Conv (r, w2) }"
    weights = {"w1": (64, 3, 1, 1), "w2": (4, 64, 1, 1)}
    assert peak("g (float[1,3,10,10] x) => (float[1,4,10,10] y) { " + chain, 4, **weights) == 4 * 100 * (64 + 4)
    beside = "h = Conv (x, w1) r = Relu (h) s = Add (h, r) y = Conv (s, w2) }"  # the Relu cannot take the place of `h`
    assert peak("g (float[1,3,10,10] x) => (float[1,4,10,10] y) { " + beside, 1, **weights) == 100 * (64 + 64)


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda: 500_000_000)


@pytest.mark.usefixtures("small_machine")
def test_a_run_that_cannot_fit_is_refused_before_it() -> None:
    """A machine ran out of memory at an inner tensor, for only the inputs' sizes were looked at."""
    told = r"takes about 1\.52 GB of memory, 1\.02 GB of it for 'h' \(\[1, 64, 2000, 2000\]\), and 0\.5 GB are free"
    large = {"x": (1, 3, 2000, 2000)}
    with pytest.raises(InputError, match=told):
        onnxprune.prune(network(), shapes=large, **HOW)
    with pytest.raises(InputError, match=told):
        onnxprune.bench([network()], shapes=large)
    config = onnxprune.PruneConfig(importance="magnitude", repair=False, shapes=("x=1,3,2000,2000",))
    with pytest.raises(InputError, match=told):
        onnxprune.sweep(network(), points=onnxprune.SweepConfig(points=1), config=config)
    assert onnxprune.analyze(network(), large).costs().macs == 2000 * 2000 * 64 * (27 + 4)  # nothing runs


def test_an_absurd_padding_is_refused_where_the_file_is_checked(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = network()
    proto.graph.node[0].attribute[0].ints[2] = 2**25
    result = onnxprune.analyze(proto, {"x": (1, 3, 1, 1)})
    removed = result.none_removed()
    removed[result.groups[0].units[0]] = True
    monkeypatch.setattr(room, "available", lambda: 8 << 30)
    with pytest.raises(InputError, match=r"takes about .* GB of it for 'h' \(\[1, 64, 33554432, 1\]\)"):
        save(remove(result, removed), tmp_path / "out.onnx", RemovalCheck(result, removed, changed=False))
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("small_machine")
def test_many_rows_a_run_are_refused_too() -> None:
    latency = onnxprune.LatencyConfig(batch=5000)
    with pytest.raises(InputError, match=r"\[1, 64, 32, 32\] for each of 5000 rows"):
        onnxprune.prune(network(), shapes={"x": (1, 3, 32, 32)}, latency=latency, **HOW)
    rows = np.zeros((3, 3, 32, 32), np.float32)
    with pytest.raises(InputError, match=r"'h' .* for each of 5000 rows"):
        onnxprune.validate(network(), network(), rows, latency=latency)
    onnxprune.prune(network(), shapes={"x": (1, 3, 32, 32)}, latency=latency, time=False, **HOW)  # runs one row


def test_a_batch_that_is_given_is_that_of_times() -> None:
    """MACs were for the batch of `--shape`, times for another one."""
    shape = {"x": (3, 3, 8, 8)}
    assert onnxprune.prune(network(), shapes=shape, **HOW).time.batch == 3
    rows = np.zeros((2, 3, 8, 8), np.float32)
    assert onnxprune.prune(network(), rows, shapes=shape, **HOW).time.batch == 3
    assert onnxprune.validate(network(), network(), rows, shapes=shape).time.batch == 3
    assert onnxprune.bench([network()], seconds=0, rounds=1, memory=False, shapes=shape)[0].batch == 3
    by_time = onnxprune.prune(network(), shapes=shape, importance="magnitude", repair=False, targets="latency=0.9")
    assert by_time.latency.batch == by_time.time.batch == 3


@pytest.mark.parametrize(
    ("batch", "known", "asked", "rows"),
    [("N", None, 1, 1), ("N", 1, 4, 4), ("N", 4, 1, 4), ("N", 4, 4, 4), ("6", 6, 4, 6), ("6", None, 1, 6)],
)
def test_rows_of_a_run(batch: str, known: int | None, asked: int, rows: int) -> None:
    assert rows_a_run(load(network(batch)), None if known is None else {"x": (known, 3, 8, 8)}, asked) == rows


def test_two_batches_contradict_each_other() -> None:
    latency = onnxprune.LatencyConfig(batch=4)
    with pytest.raises(InputError, match=r"shapes gives a batch of 3, latency\.batch one of 4"):
        onnxprune.prune(network(), shapes={"x": (3, 3, 8, 8)}, latency=latency, **HOW)
