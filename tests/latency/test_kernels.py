"""Kernel times from the profiler's events."""

from typing import Any

import numpy as np

from onnxprune.core.engine import ONE_CORE
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.kernels import own_times, round_times
from onnxprune.ops.examples import example
from onnxprune.structure.coupling import analyse


def events(runs: list[list[tuple[str, str, int]]]) -> list[dict[str, Any]]:
    """Events of runs, each a list of `(node, operator, microseconds)`."""
    found, clock = [], 0
    for run in runs:
        for node, op_name, duration in run:
            name, clock = f"{node}_kernel_time", clock + 100
            found.append({"cat": "Node", "name": name, "ts": clock, "dur": duration, "args": {"op_name": op_name}})
    return [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 5}, *found]


def run(own: int) -> list[tuple[str, str, int]]:
    return [
        ("stub:t0_nchwc", "Conv", 50),
        ("ReorderOutput", "ReorderOutput", 3),
        ("t3_nchwc", "Conv", own),
        ("ReorderInput", "ReorderInput", 7),
        ("stub:t3:z", "Conv", 60),
    ]


def test_stubs_and_what_their_reader_converts_are_left_out() -> None:
    assert own_times(events([run(10)] * 6), 2).tolist() == [13.0, 13.0]


def test_warm_up_and_disturbed_runs_do_not_count() -> None:
    assert own_times(events([run(900), run(900), run(10), run(500), run(10), run(20)]), 2).tolist() == [13.0, 13.0]


def test_without_a_stub_behind_everything_counts() -> None:
    runs = [[("stub:t0", "MatMul", 50), ("t2", "Gemm", 4), ("ReorderOutput", "ReorderOutput", 2)]] * 4
    assert own_times(events(runs), 1).tolist() == [6.0]


def test_real_sites_have_times(network: Model) -> None:
    analysis = analyse(network)
    found = fused_kernels(analysis)
    by_key = {kernel.key: kernel for kernel in found}
    times = round_times([kernel.analysis.model for kernel in by_key.values()], engine=ONE_CORE).mean(axis=0)
    convolutions = [time for kernel, time in zip(by_key.values(), times, strict=True) if kernel.nodes[0][0] in "ab"]
    assert all(time >= 0 for time in times)
    assert all(time > 0 for time in convolutions)


def test_kernels_that_onnxruntime_removes_take_no_time() -> None:
    """The size of a map is known when the model is loaded: nothing is left to run."""
    proto = example(
        """g (float[N,3,8,8] x) => (float[N,4] y) {
        h = Conv (x, w1)
        s = Shape (h)
        n = Slice (s, zero, one)
        sizes = Concat <axis = 0> (n, minus)
        f = Reshape (h, sizes)
        y = MatMul (f, w2) }""",
        {"w1": (6, 3, 3, 3), "w2": (216, 4)},
        {"zero": np.array([0]), "one": np.array([1]), "minus": np.array([-1])},
    )
    found = fused_kernels(analyse(load(proto)))
    times = round_times([kernel.analysis.model for kernel in found], engine=ONE_CORE).mean(axis=0)
    by_node = {kernel.nodes[0]: time for kernel, time in zip(found, times, strict=True)}
    assert by_node["s"] == 0
    assert by_node["h"] > 0
