"""Constant nodes between layers do not disturb a run in steps."""

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.api.prune import prune


def test_constant_nodes_are_no_results_of_a_step() -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((6, 6)).astype(np.float32) for i in range(3)}
    nodes, last = [], "x"
    for name, value in weights.items():
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
    for name in weights:
        nodes += [
            helper.make_node("MatMul", [last, name], [f"m{name}"]),
            helper.make_node("Relu", [f"m{name}"], [f"r{name}"]),
        ]
        last = f"r{name}"
    graph = helper.make_graph(
        nodes,
        "constants",
        [helper.make_tensor_value_info("x", 1, ["N", 6])],
        [helper.make_tensor_value_info(last, 1, ["N", 6])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = prune(model, rng.standard_normal((32, 6)).astype(np.float32), targets="macs=0.7", importance="magnitude")
    assert result.after.macs <= 0.7 * result.before.macs
