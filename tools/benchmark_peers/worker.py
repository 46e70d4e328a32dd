"""Runs a peer in a process of its own: prunes by a ratio, or finds the ratios that meet budgets.

    python -m benchmark_peers.worker JOBS.json

The file holds one job with a ratio, whose model is written; or a list of jobs without, for which the smallest
sufficient ratios are found, the models are written and the ratios printed. The search needs onnxprune, which counts the
costs of candidates as it counts those of the final files.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from benchmark_peers.job import Job

Prune = Callable[[float], onnx.ModelProto]
STEPS = 12  # halvings of the ratio's interval at most
CLOSE = 0.004  # how far below the budget is near enough to stop, as a share of the original
HIGHEST = 0.9  # of 16 channels one remains; beyond that Torch-Pruning leaves a layer as it is


def search(prune: Prune, job: Job) -> float | None:
    """The smallest ratio whose model stays within the budget; None where even the largest does not."""
    from onnxprune.core.targets import Target
    from onnxprune.graph.load import load
    from onnxprune.structure.costs import count_costs

    wanted = Target.parse(job.target)
    base = float(getattr(count_costs(load(job.model)), wanted.kind))

    def share(ratio: float) -> float:
        return float(getattr(count_costs(load(prune(ratio))), wanted.kind)) / base

    low, high = 0.0, HIGHEST
    reached = share(high)
    if reached > wanted.value:
        return None
    for _ in range(STEPS):
        if wanted.value - reached < CLOSE:
            break
        middle = (low + high) / 2
        found = share(middle)
        if found > wanted.value:
            low = middle
        else:
            high, reached = middle, found
    return high


def search_all(jobs: Sequence[Job]) -> list[float | None]:
    """Search for each job and write its model. Where every layer has one ratio, it does not depend on the criterion."""
    known: dict[tuple[str, str], float | None] = {}
    for job in jobs:
        prune = prepare(job)
        key = (job.target, job.method.removesuffix("+refit") if job.scope == "global" else "")
        if key not in known:
            known[key] = search(prune, job)
        ratio = known[key]
        if ratio is not None:
            onnx.save(prune(ratio), job.output)
    return [known[job.target, job.method.removesuffix("+refit") if job.scope == "global" else ""] for job in jobs]


def prepare(job: Job) -> Prune:
    """The peer's pruning of the job's model."""
    if job.tool == "onnxsim":
        from benchmark_peers.onnxsim_pruning import prepare as make
    else:
        from benchmark_peers.torch_pruning_runs import prepare as make
    return make(job)


def main() -> None:
    """Run what the file on the command line asks for."""
    given = json.loads(Path(sys.argv[1]).read_text())
    if isinstance(given, list):
        print(json.dumps(search_all([Job(**each) for each in given])))
        return
    job = Job(**given)
    if job.ratio is not None:
        onnx.save(prepare(job)(job.ratio), job.output)


if __name__ == "__main__":
    main()
