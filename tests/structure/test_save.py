"""Writing models: whole with their weights or not at all, and never over what was read."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.core.errors import InputError, ModelError
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.graph.write import write
from onnxprune.structure.save import save


def perceptron(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 64), (64, 64), (64, 4))]
    names = ["x", "a", "b", "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(3)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def apart(path: Path, data: str, seed: int = 0) -> Path:
    """A model at `path` with its weights in the file `data` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(perceptron(seed), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(path: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load(path).constants.items()}


def nothing(_: Path) -> None:
    pass


def test_the_weights_of_the_original_are_never_written_to(tmp_path: Path) -> None:
    """An original with its weights in out.onnx.data lost them to the result: exit code 0, and it no longer loaded."""
    original = apart(tmp_path / "original.onnx", "out.onnx.data")
    before = contents(tmp_path)
    result = onnxprune.prune(original, importance="magnitude", repair=False, targets="macs=0.5")
    assert result.save(tmp_path / "out.onnx") == (tmp_path / "out.onnx", tmp_path / "out.onnx.1.data")
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"out.onnx", "out.onnx.1.data"}
    assert weights(tmp_path / "out.onnx") == {n: a.tobytes() for n, a in result.model.constants.items()}
    onnx.checker.check_model(str(original))


@pytest.mark.parametrize("name", ["original.onnx", "out.onnx.data", "link.onnx", "hard.onnx", "near/original.onnx"])
def test_files_of_the_original_are_refused_as_output(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "far"
    model = load(apart(folder / "original.onnx", "out.onnx.data"))
    (folder / "link.onnx").symlink_to("original.onnx")
    os.link(folder / "out.onnx.data", folder / "hard.onnx")
    (folder / "near").symlink_to(".")
    before = contents(folder)
    with pytest.raises(InputError, match="never changed"):
        save(model, folder / name, nothing)
    assert contents(folder) == before


def test_files_of_the_rows_are_refused_as_output(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("a.npy", "b.npy", "eval.npy"):
        place = tmp_path if name == "eval.npy" else tmp_path / "rows"
        np.save(place / name, np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32))
    before = contents(tmp_path)
    result = onnxprune.prune(
        perceptron(), tmp_path / "rows", evaluation=tmp_path / "eval.npy", importance="magnitude", targets="macs=0.5"
    )
    for name in ("rows/a.npy", "rows/b.npy", "eval.npy"):
        with pytest.raises(InputError, match="never changed"):
            result.save(tmp_path / name)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="never changed"):
        result.save(tmp_path / "plan.json", protected=[tmp_path / "plan.json"])
    (tmp_path / "plan.json").unlink()
    assert contents(tmp_path) == before
    assert result.save(tmp_path / "out.onnx") == (tmp_path / "out.onnx",)


def test_a_data_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    apart(tmp_path / "other.onnx", "out.onnx.data", seed=1)
    (tmp_path / "out.onnx.1.data").write_text("not a model's")
    model = load(apart(tmp_path / "in" / "model.onnx", "model.bin"))
    before = contents(tmp_path)
    assert save(model, tmp_path / "out.onnx", nothing)[1] == tmp_path / "out.onnx.2.data"
    assert before.items() <= contents(tmp_path).items()
    assert weights(tmp_path / "out.onnx") == {n: a.tobytes() for n, a in model.constants.items()}


def test_data_never_go_where_another_output_goes(tmp_path: Path) -> None:
    model = load(apart(tmp_path / "in" / "model.onnx", "model.bin"))
    report = tmp_path / "out.onnx.data"  # written later
    assert save(model, tmp_path / "out.onnx", nothing, [report])[1] == tmp_path / "out.onnx.1.data"


def versions(folder: Path) -> list[Model]:
    return [load(apart(folder / "in" / str(seed) / "model.onnx", "model.bin", seed)) for seed in range(3)]


def test_an_older_output_is_replaced_with_its_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for model in versions(tmp_path):
        save(model, out / "out.onnx", nothing)
        assert contents(out).keys() == {"out.onnx", "out.onnx.data"}
        assert weights(out / "out.onnx") == {n: a.tobytes() for n, a in model.constants.items()}


def test_the_same_command_leaves_the_same_files(tmp_path: Path) -> None:
    """Weights beside a model changed their name with every run, so that nobody could say what to ship."""
    model, out = versions(tmp_path)[0], tmp_path / "out"
    out.mkdir()
    save(model, out / "out.onnx", nothing)
    before = contents(out)
    assert save(model, out / "out.onnx", nothing) == (out / "out.onnx", out / "out.onnx.data")
    assert contents(out) == before


def test_weights_keep_a_name_that_cannot_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems give a file one name only."""
    first, second, _ = versions(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    save(first, out / "out.onnx", nothing)

    def refuses(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    assert save(second, out / "out.onnx", nothing) == (out / "out.onnx", out / "out.onnx.1.data")
    assert contents(out).keys() == {"out.onnx", "out.onnx.1.data"}
    assert weights(out / "out.onnx") == {n: a.tobytes() for n, a in second.constants.items()}


@pytest.mark.parametrize("failing", [0, 1])
def test_replacing_an_output_fails_as_a_whole(tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new data were in place before the old model was replaced; it then read them."""
    first, second, _ = versions(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    save(first, out / "out.onnx", nothing)
    before = contents(out)
    replace, calls = Path.replace, []

    def stops(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stops)
    with pytest.raises(InputError, match="No space left"):
        save(second, out / "out.onnx", nothing)
    assert contents(out) == before


def test_at_every_instant_the_name_stands_for_a_whole_model(tmp_path: Path) -> None:
    """So a process that is killed leaves the older model with its own weights, or the new one with its."""
    first, second, _ = versions(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    save(first, out / "out.onnx", nothing)
    wanted = [{n: a.tobytes() for n, a in model.constants.items()} for model in (first, second)]
    seen: list[int] = []

    def look() -> None:
        seen.append(wanted.index(weights(out / "out.onnx")))

    with pytest.MonkeyPatch.context() as patch:
        for name, function in (("replace", Path.replace), ("unlink", Path.unlink)):
            patch.setattr(Path, name, looking(function, look))
        save(second, out / "out.onnx", nothing)
    assert seen == sorted(seen)
    assert {0, 1} == set(seen)


def looking(function: Callable[..., object], look: Callable[[], None]) -> Callable[..., object]:
    def run(*given: object, **named: object) -> object:
        look()
        found = function(*given, **named)
        look()
        return found

    return run


def test_a_check_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def refuses(path: Path) -> None:
        assert path.is_file()
        raise ModelError("no")

    for model in (load(perceptron()), versions(tmp_path)[0]):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(ModelError, match="no"):
            save(model, tmp_path / "out" / "out.onnx", refuses)
        assert not contents(tmp_path / "out")


def test_links_to_the_output_are_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link.onnx").symlink_to("far/out.onnx")
    assert save(load(perceptron()), tmp_path / "link.onnx", nothing) == (tmp_path / "far" / "out.onnx",)
    assert (tmp_path / "link.onnx").is_symlink()
    with pytest.raises(InputError, match=r"weights go beside its file; give .*far/out\.onnx"):
        save(versions(tmp_path)[0], tmp_path / "link.onnx", nothing)
    (tmp_path / "near.onnx").symlink_to("out.onnx")
    assert len(save(versions(tmp_path)[0], tmp_path / "near.onnx", nothing)) == 2
    assert weights(tmp_path / "near.onnx") == weights(tmp_path / "out.onnx")


def test_a_model_goes_through_a_pipe_where_its_weights_are_inside(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        assert save(load(perceptron()), tmp_path / "pipe") == ()
        assert reader.stdout is not None
        onnx.checker.check_model(onnx.load_model_from_string(reader.stdout.read()))
    with pytest.raises(InputError, match="a file of their own"):
        save(versions(tmp_path)[0], tmp_path / "pipe")


def test_the_name_of_the_data_may_be_too_long(tmp_path: Path) -> None:
    """The run failed at its end."""
    name = "a" * 251
    save(load(perceptron()), tmp_path / name, nothing)
    with pytest.raises(InputError, match="too long"):
        save(versions(tmp_path)[0], tmp_path / name, nothing)


@pytest.mark.parametrize("listed", [{"value_floats": [1.0, 2.0, 3.0, 4.0]}, {"value_float": 3.0}])
def test_constants_listed_in_a_node_change_in_files_with_weights_apart(listed: dict[str, Any], tmp_path: Path) -> None:
    """A Constant with `value_floats` kept its old numbers there, so that the result did not load."""
    proto = perceptron()
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], **listed))
    proto.graph.node.append(helper.make_node("Add", ["y", "c"], ["z"]))
    proto.graph.output[0].name = "z"
    path = tmp_path / "original.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="data", size_threshold=0)
    model = load(path)
    assert model.external
    changed = np.full(model.constants["c"].shape, 9, np.float32)
    write(model.with_constants({"c": changed}), tmp_path / "changed.onnx")
    np.testing.assert_array_equal(load(tmp_path / "changed.onnx").constants["c"], changed)
    write(model, tmp_path / "same.onnx")
    (same,) = (node for node in onnx.load(tmp_path / "same.onnx").graph.node if node.op_type == "Constant")
    assert [attribute.name for attribute in same.attribute] == list(listed)
