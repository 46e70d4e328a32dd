"""`tools/check_cases.py`: its oracle on networks pruned by hand, rightly and wrongly, and on the command's files."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def oracle() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from checks import oracle as module

        yield module
    finally:
        sys.path.remove(str(ROOT / "tools"))


def network(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray], x: Sequence[int], rank: int
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", 1, x)]
    outputs = [helper.make_tensor_value_info("y", 1, [None] * rank)]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def distance(oracle: ModuleType, original: onnx.ModelProto, pruned: onnx.ModelProto, shape: Sequence[int]) -> float:
    from checks.values import outputs

    feeds = {"x": noise(*shape, seed=7)}
    wanted = oracle.expected(original, pruned, feeds)
    return float(oracle.distance(outputs(wanted, feeds), outputs(pruned, feeds)))


def convolutions(w: Weights) -> onnx.ModelProto:
    """A convolution, a grouped one, a dense layer with transposed weights."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"]),
        node("Sigmoid", ["a"], ["s"]),
        node("Conv", ["s", "w2"], ["c"], group=2),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    return network(nodes, w, ["N", 3, 6, 6], 2)


def convolution_weights() -> Weights:
    return {"w1": noise(8, 3, 3, 3), "b1": noise(8), "w2": noise(6, 4, 3, 3), "w3": noise(5, 6), "b3": noise(5)}


def test_hand_pruned_convolutions_equal_the_oracle(oracle: ModuleType) -> None:
    full = convolution_weights()
    first, second = [0, 2, 3, 4, 6, 7], [0, 2, 3, 5]  # one channel of each group goes
    right = full | {"w1": full["w1"][first], "b1": full["b1"][first], "w3": full["w3"][:, second]}
    right["w2"] = np.concatenate([full["w2"][[0, 2]][:, [0, 2, 3]], full["w2"][[3, 5]][:, [0, 2, 3]]])
    assert distance(oracle, convolutions(full), convolutions(right), (2, 3, 6, 6)) < 1e-6
    moved = right | {"b1": full["b1"][[0, 1, 3, 4, 6, 7]]}  # a bias of a channel that went
    assert distance(oracle, convolutions(full), convolutions(moved), (2, 3, 6, 6)) > 1e-3
    crossed = right | {"w3": full["w3"][:, [0, 1, 3, 5]]}  # reads another channel than the one that stays
    assert distance(oracle, convolutions(full), convolutions(crossed), (2, 3, 6, 6)) > 1e-3
    refitted = right | {"w3": right["w3"] * np.float32(1.01)}
    with pytest.raises(oracle.UntoldError, match="none of the original"):
        distance(oracle, convolutions(full), convolutions(refitted), (2, 3, 6, 6))


def attention(w: Weights) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        *(node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"),
        node("Transpose", ["k"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["q", "t"], ["s"]),
        node("Softmax", ["s"], ["p"]),
        node("MatMul", ["p", "v"], ["o"]),
        node("MatMul", ["o", "wo"], ["y"]),
    ]
    return network(nodes, w, ["N", 4, 6], 3)


def test_products_of_activations_are_told_by_their_values(oracle: ModuleType) -> None:
    full = {f"w{name}": noise(6, 6, seed=seed) for seed, name in enumerate("qkvo")}
    inner, outer = [0, 1, 4], [1, 2, 3, 5]
    right = {
        "wq": full["wq"][:, inner],
        "wk": full["wk"][:, inner],
        "wv": full["wv"][:, outer],
        "wo": full["wo"][outer],
    }
    assert distance(oracle, attention(full), attention(right), (2, 4, 6)) < 1e-5
    wrong = right | {"wk": full["wk"][:, [0, 2, 4]]}
    assert distance(oracle, attention(full), attention(wrong), (2, 4, 6)) > 1e-2


def recurrent(w: Weights) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("LSTM", ["x", "w", "r", "b"], ["l"], hidden_size=w["r"].shape[2], direction="bidirectional"),
        node("Transpose", ["l"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "shape"], ["f"]),
        node("MatMul", ["f", "wo"], ["y"]),
    ]
    return network(nodes, w, [5, 2, 3], 3)


def test_each_direction_of_a_recurrent_layer_loses_units_of_its_own(oracle: ModuleType) -> None:
    full = {"w": noise(2, 16, 3), "r": noise(2, 16, 4), "b": noise(2, 32), "wo": noise(8, 3)}
    full["shape"] = np.array([5, 2, -1])
    kept = ([0, 1, 3], [1, 2, 3])
    gates = [[4 * gate + unit for gate in range(4) for unit in units] for units in kept]
    right = {
        "w": np.stack([full["w"][d][gates[d]] for d in range(2)]),
        "r": np.stack([full["r"][d][gates[d]][:, kept[d]] for d in range(2)]),
        "b": np.stack([full["b"][d][gates[d] + [16 + g for g in gates[d]]] for d in range(2)]),
        "wo": full["wo"][[*kept[0], *(4 + unit for unit in kept[1])]],
        "shape": full["shape"],
    }
    assert distance(oracle, recurrent(full), recurrent(right), (5, 2, 3)) < 1e-6
    swapped = right | {"b": right["b"][::-1].copy()}
    assert distance(oracle, recurrent(full), recurrent(swapped), (5, 2, 3)) > 1e-3


def residual(w: Weights, *, branch: bool) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w0"], ["a"])]
    nodes += [
        node("MatMul", ["a", "w1"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "w2", "b"], ["c"]),
    ] * branch
    nodes += [node("Add", ["a", "c" if branch else "b"], ["z"]), node("ReduceSum", ["z"], ["y"], keepdims=1)]
    nodes[-1].input.append("axes")
    return network(nodes, w, ["N", 3], 2)


def test_a_branch_that_went_leaves_its_bias(oracle: ModuleType) -> None:
    full = {"w0": noise(3, 6), "w1": noise(6, 4), "w2": noise(4, 6), "b": noise(6), "axes": np.array([1])}
    gone = {name: full[name] for name in ("w0", "b", "axes")}
    original = residual(full, branch=True)
    assert distance(oracle, original, residual(gone, branch=False), (4, 3)) < 1e-6
    forgotten = residual(gone | {"b": np.zeros(6, np.float32)}, branch=False)
    assert distance(oracle, original, forgotten, (4, 3)) > 1e-2


def test_the_bench_judges_what_the_command_writes(oracle: ModuleType, tmp_path: Path) -> None:
    from checks.bench import Bench, CaseError

    for name in ("fc3_mnist", "lenet5_mnist"):
        shutil.copy(ROOT / "models" / f"{name}.onnx", tmp_path)
    bench = Bench(tmp_path)
    pruned = bench.prune("lenet5_mnist", "--importance magnitude --no-repair --target macs=0.6", None)
    assert bench.right(pruned).startswith("equals the oracle within")
    assert bench.within(pruned, "macs", 0.6).startswith("macs 0.")
    with pytest.raises(CaseError, match=r"asked for 0\.1"):
        bench.within(pruned, "macs", 0.1)
    model = onnx.load(pruned.file)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    onnx.save(model, pruned.file)
    with pytest.raises(CaseError, match="differs by"):
        bench.right(pruned)
    with pytest.raises(CaseError, match="exit 4: onnxprune: error: budget cannot be met"):
        bench.prune("fc3_mnist", "--importance magnitude --no-repair --target params=1e-6", None)


def test_a_missing_folder_is_said() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_cases.py", ROOT],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "the cases are not at" in done.stderr
