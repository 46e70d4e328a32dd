"""What a written file says of where it comes from, and what is said of a file that was pruned before."""

import getpass
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.graph.lineage import KEY, lineage
from onnxprune.graph.load import load
from onnxprune.ops.examples import example

OPTIONS = {"importance": "magnitude", "repair": False, "round_to": 1, "time": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with metadata of its own, and rows."""
    text = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    proto = example(text, {"w1": (6, 32), "b1": (32,), "w2": (32, 3)})
    proto.metadata_props.add(key="licence", value="MIT")
    onnx.save(proto, tmp_path / "model.onnx")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32))
    return tmp_path


def pruned(folder: Path, source: str, written: str, **options: object) -> onnxprune.PruneResult:
    made = onnxprune.prune(folder / source, folder / "rows.npy", targets="macs=0.5", **OPTIONS, **options)
    made.save(folder / written)
    return made


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_a_file_tells_how_it_was_made(folder: Path) -> None:
    made = pruned(folder, "model.onnx", "half.onnx", cache=str(folder / "kept"))
    told = metadata(folder / "half.onnx")
    assert told["licence"] == "MIT"
    record = json.loads(told[KEY])
    assert record["version"] == onnxprune.__version__
    assert record["options"] == {
        "--target": "macs=0.5",
        "--importance": "magnitude",
        "--round-to": "1",
        "--repair": "off",
        "--output": "y=quantities",  # what the rows told: they show a single class
        "--time": "off",
    }
    read = {"model": "model.onnx", "data": "rows.npy"}
    assert record["sha256"] == {n: hashlib.sha256((folder / f).read_bytes()).hexdigest() for n, f in read.items()}
    assert record["before"] == record["first"] == dict(made.before)
    assert str(folder) not in told[KEY]
    assert f"/{getpass.getuser()}/" not in told[KEY]


def test_it_need_not(folder: Path) -> None:
    result = onnxprune.prune(folder / "model.onnx", folder / "rows.npy", targets="macs=0.5", **OPTIONS)
    result.save(folder / "half.onnx", provenance=False)
    assert metadata(folder / "half.onnx") == {"licence": "MIT"}


def test_a_pruned_file_is_pruned_as_it_is_and_its_first_original_is_named(folder: Path) -> None:
    first = pruned(folder, "model.onnx", "half.onnx")
    second = pruned(folder, "half.onnx", "quarter.onnx")
    third = pruned(folder, "quarter.onnx", "eighth.onnx")
    assert second.before == first.after
    assert third.after.macs <= 0.5 * second.after.macs
    assert not any("pruned before" in note for note in first.notes)
    for result in (second, third):
        assert sum(f"its first original had {first.before.macs:,} MACs" in note for note in result.notes) == 1
    record = json.loads(metadata(folder / "eighth.onnx")[KEY])
    assert record["first"]["macs"] == first.before.macs
    assert record["before"]["macs"] == second.after.macs


@given(
    st.text(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x)
    ).map(json.dumps)
    | st.sampled_from(["first", "macs"]).flatmap(lambda k: st.integers().map(lambda n: json.dumps({"first": {k: n}})))
)
def test_metadata_of_others_are_no_trouble(value: str) -> None:
    text = "g (float[N,6] x) => (float[N,3] y) { y = Gemm (x, w) }"
    proto = example(text, {"w": (6, 3)})
    proto.metadata_props.add(key=KEY, value=value)
    assert load(proto).notes == ()
    assert lineage(proto) is None or isinstance(lineage(proto), dict)
