"""Damaged and hostile files: a clear refusal or a right result, never a crash, a hang or a broken file."""

import contextlib
import importlib.util
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.core.errors import InputError, ModelError, OnnxPruneError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse, analyze
from onnxprune.structure.refusals import require_understood

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = int(os.environ.get("ONNXPRUNE_MUTANTS", "200"))
FILES = (
    *("omlt/convx1_gemmx1", "marabou/cnn_max_mninst2", "mlperf_tiny/resnet8_cifar10", "vnncomp2022/unet_simp_small"),
    *("vnncomp2023/ibp_3_3_8", "cifar10_resnet_akamaster/resnet20_cifar10", "yunet/yunet_n_dynamic"),
    *("pyscipopt_ml/sk_3_42_0_0_relu", "mlperf_tiny/kws_dscnn", "magika/model"),
)


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "tools" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Real files where they are there; the models of this project always."""
    corpus = Path(os.environ.get("ONNXPRUNE_CORPUS") or ROOT.parent / "shared") / "models"
    paths = [path for name in FILES if (path := corpus / f"{name}.onnx").is_file()]
    return [path.read_bytes() for path in (*paths, *sorted((ROOT / "models").glob("*.onnx")))]


def test_mutants_are_refused_or_pruned_rightly(fuzz: ModuleType, originals: list[bytes], tmp_path: Path) -> None:
    outcomes = []
    for seed in range(MUTANTS):
        _, data = fuzz.mutant(originals[seed % len(originals)], seed)
        outcome = fuzz.survive(data, tmp_path, seed)
        assert "does not do what the original does" not in outcome, f"seed {seed}"
        outcomes.append(outcome)
    assert 0 < outcomes.count("pruned") < len(outcomes)


def linear(
    nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray], shape: tuple[object, ...] = ("N", 4)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "M"])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WEIGHT = {"w": np.ones((4, 4), np.float32)}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("MatMul", "h w", "h")], "h"),
        ([("MatMul", "b w", "a"), ("Relu", "a", "b"), ("Relu", "b", "y")], "a|b"),
        ([("MatMul", "x missing", "y")], "missing"),
        ([("Relu", "x", "y"), ("MatMul", "x w", "y")], "y"),
        ([("Flatten", "x", "z")], "y"),
    ],
    ids=["reads itself", "cycle", "missing initializer", "made twice", "output not made"],
)
def test_broken_graphs_are_refused(nodes: list[tuple[str, str, str]], message: str) -> None:
    made = [helper.make_node(op, inputs.split(), outputs.split()) for op, inputs, outputs in nodes]
    with pytest.raises(ModelError, match=message):
        analyze(linear(made, WEIGHT))


@pytest.mark.parametrize("size", [2**31, 2**62, -5])
def test_absurd_dimensions_take_no_memory(size: int) -> None:
    proto = linear([helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], WEIGHT)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(OnnxPruneError):
        analyze(proto)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_absurd_initializers_are_refused() -> None:
    proto = linear([helper.make_node("MatMul", ["x", "w"], ["y"])], WEIGHT)
    proto.graph.initializer[0].dims[:] = [2**40, 2**20]
    with pytest.raises(ModelError, match="'w'"):
        analyze(proto)


def test_shape_arithmetic_makes_no_huge_tensors() -> None:
    proto = example(
        """g (float[N,6] x) => (float[A,B] y) {
        big = ConstantOfShape (shape)
        tall = Expand (one, shape)
        long = Tile (one, shape)
        many = Range (zero, count, step)
        y = Relu (x) }""",
        {"one": (1, 1)},
        {"shape": np.array([2**30, 2**30]), "zero": np.array(0), "count": np.array(2**50), "step": np.array(1)},
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    analyze(proto)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_flattening_absurd_pads_takes_no_memory() -> None:
    model = example(
        """g (float[N,3,4,4] x) => (float[N,A] y) {
        h = Conv <pads = [0, 0, 2000000000, 4]> (x, w)
        y = Flatten (h) }""",
        {"w": (8, 3, 1, 1)},
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = analyze(model)
    assert found.prunable == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_target_shape_that_is_no_vector_is_refused() -> None:
    model = example(
        """g (float[N,6] x) => (float[N,3] y) {
        h = MatMul (x, w)
        r = Reshape (h, target)
        y = MatMul (r, u) }""",
        {"w": (6, 8), "u": (8, 3)},
        {"target": np.array([0, 8])},
    )
    assert analyze(model).prunable == 8
    model.graph.initializer[-1].dims[:] = [1, 2]
    with pytest.raises(ModelError, match="not a vector"):
        analyze(model)


def test_weights_that_are_no_numbers_are_handled() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    analysis = analyze(
        linear(nodes, {"w": np.full((4, 4), np.nan, np.float32), "w2": np.full((4, 2), np.inf, np.float32)})
    )
    assert analysis.prunable == 4


def test_zero_sized_tensors() -> None:
    nodes = [helper.make_node("Concat", ["x", "empty"], ["c"], axis=1), helper.make_node("MatMul", ["c", "w"], ["y"])]
    assert analyze(linear(nodes, {**WEIGHT, "empty": np.zeros((1, 0), np.float32)}, (1, 4))).prunable == 0


def test_nothing_to_prune() -> None:
    analysis = analyze(linear([helper.make_node("Relu", ["x"], ["y"])], {}))
    assert (analysis.groups, analysis.total) == ((), 0)


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises((InputError, ModelError)):
        analyze(onnx.ModelProto())


def test_unknown_operators_are_named_and_strict_refuses_them() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Twist", ["h"], ["t"], domain="com.example", name="odd"),
        helper.make_node("MatMul", ["t", "w2"], ["y"]),
    ]
    proto = linear(nodes, {**WEIGHT, "w2": np.ones((4, 2), np.float32)})
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    analysis = analyze(proto)
    assert analysis.prunable == 0
    reason = next(item for item in analysis.not_pruned if item.tensor == "h")
    assert reason.node == "odd"
    assert reason.limitation
    assert reason.reason == "operator com.example.Twist is not supported"
    with pytest.raises(ModelError, match=r"'h' cannot be pruned: operator com\.example\.Twist.*leave out --strict"):
        require_understood(analysis)


def test_strict_accepts_what_lies_in_the_models_nature() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    analysis = analyze(linear(nodes, WEIGHT))
    assert {item.reason for item in analysis.not_pruned} >= {"Softmax normalises across these channels"}
    require_understood(analysis)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret.bin", "outside the model's folder"),
        ("/etc/hostname", "outside the model's folder"),
        ("link.bin", "outside the model's folder"),
        ("", "outside the model's folder"),
        ("absent.bin", "is missing"),
        ("short.bin", "too short"),
        ("folder", "is missing"),
    ],
)
def test_external_data_stays_in_the_folder(location: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "short.bin").write_bytes(bytes(60))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    proto = linear([helper.make_node("MatMul", ["x", "w"], ["y"])], WEIGHT)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    expected = InputError if location == "absent.bin" else ModelError  # the former is no fault of the file
    with pytest.raises(expected, match=message):
        load(folder / "model.onnx")


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.5, 0.9])
def test_cut_off_files_are_refused(cut: float, tmp_path: Path, make_file: Callable[[], bytes]) -> None:
    data = make_file()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(OnnxPruneError, match=r"cut\.onnx"):
        analyze(path)


@pytest.fixture
def make_file() -> Callable[[], bytes]:
    def make() -> bytes:
        proto = linear([helper.make_node("MatMul", ["x", "w"], ["y"])], WEIGHT)
        return bytes(proto.SerializeToString())

    return make


def test_a_text_that_is_no_text_is_refused(tmp_path: Path, make_file: Callable[[], bytes]) -> None:
    data = make_file().replace(b"MatMul", b"Mat\xfful")
    (tmp_path / "odd.onnx").write_bytes(data)
    with pytest.raises(OnnxPruneError, match=r"damaged|not an ONNX file"):
        analyze(tmp_path / "odd.onnx")


def test_a_store_of_files_with_a_folder_of_links(tmp_path: Path) -> None:
    """Hugging Face's cache links model and data to files of other names; onnxruntime reads these, and so do we."""
    proto = linear([helper.make_node("MatMul", ["x", "w"], ["y"])], WEIGHT)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    tensor = proto.graph.initializer[0]
    (blobs / "b7").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx_data")
    (blobs / "a3").write_bytes(proto.SerializeToString())
    (snapshot / "model.onnx").symlink_to("../../blobs/a3")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/b7")
    model = load(snapshot / "model.onnx")
    assert np.array_equal(model.constants["w"], WEIGHT["w"])
    assert set(model.files) == {blobs / "a3", blobs / "b7"}
    (snapshot / "plain.onnx").write_bytes((blobs / "a3").read_bytes())  # no link: nothing beyond its folder is read
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(snapshot / "plain.onnx")


def test_filters_that_make_no_groups_are_told() -> None:
    """Onnx's inference lets them pass, and a run on rows ended in numpy's "cannot reshape"."""
    text = "g (float[N,3,8,8] x) => (float[N,C,H,W] y) { y = Conv <group = 3> (x, w) }"
    with pytest.raises(ModelError, match="16 filters do not make 3 groups"):
        analyse(load(example(text, {"w": (16, 1, 3, 3)})))
