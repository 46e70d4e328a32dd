"""Kernel times from the profiler's events."""

from typing import Any

from onnxprune.graph.model import Model
from onnxprune.latency.fused_kernels import fused_kernels
from onnxprune.latency.kernels import kernel_times, own_time
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
    assert own_time(events([run(10)] * 6)) == 13.0


def test_warm_up_and_disturbed_runs_do_not_count() -> None:
    assert own_time(events([run(900), run(900), run(10), run(500), run(10), run(10)])) == 13.0


def test_without_a_stub_behind_everything_counts() -> None:
    runs = [[("stub:t0", "MatMul", 50), ("t2", "Gemm", 4), ("ReorderOutput", "ReorderOutput", 2)]] * 4
    assert own_time(events(runs)) == 6.0


def test_real_sites_have_times(network: Model) -> None:
    analysis = analyse(network)
    found = fused_kernels(analysis)
    by_key = {kernel.key: kernel for kernel in found}
    times = kernel_times([kernel.analysis.model for kernel in by_key.values()], threads=1)
    convolutions = [time for kernel, time in zip(by_key.values(), times, strict=True) if kernel.nodes[0][0] in "ab"]
    assert all(time >= 0 for time in times)
    assert all(time > 0 for time in convolutions)
