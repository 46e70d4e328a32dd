"""Runs a peer in a process of its own: prunes by a ratio, or finds the ratios that meet budgets.

    python -m benchmark_peers.worker JOBS.json

The file holds one job with a ratio, whose model is written; or a list of jobs without, for which the smallest
sufficient ratios are found, the models are written and the ratios printed. The search needs onnxprune, which counts
the costs of candidates, or times them, as it does those of the final files.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx

from benchmark_peers.job import Job
from benchmark_peers.methods import TIME

Prune = Callable[[float], onnx.ModelProto]
Share = Callable[[float], float]
STEPS = 12  # halvings of the ratio's interval at most
CLOSE = 0.004  # how far below the budget is near enough to stop, as a share of the original
SCANNED = 0.05  # step of the ratios that are tried for a budget of time
HIGHEST = 0.9  # of 16 channels one remains; beyond that Torch-Pruning leaves a layer as it is
TIMED_S = 0.8


def share_of(prune: Prune, job: Job) -> tuple[Share, float]:
    """What is left of the budget's cost at a ratio, and the share that the budget allows."""
    from onnxprune.core.engine import ONE_CORE
    from onnxprune.core.targets import Target
    from onnxprune.graph.load import load
    from onnxprune.runtime.timing import time_models
    from onnxprune.structure.costs import count_costs

    wanted, original = Target.parse(job.target), load(job.model)
    kind = "macs" if wanted.kind == TIME else wanted.kind
    before = float(getattr(count_costs(original), kind))

    def counted(ratio: float) -> float:
        return float(getattr(count_costs(load(prune(ratio))), kind)) / before

    def timed(ratio: float) -> float:
        left = counted(ratio)
        if left > wanted.value:  # time hardly falls faster than multiply-adds do
            return left
        pair = (original, load(prune(ratio)))
        # Time on the processor: what runs beside it does not count.
        clock = time.thread_time
        return float(time_models(pair, engine=ONE_CORE, seconds=TIMED_S, memory=False, clock=clock)[1].ratio)

    return timed if wanted.kind == TIME else counted, float(wanted.value)


def halved(share: Share, allowed: float) -> float | None:
    """The smallest ratio that stays within the budget, by halving; None where even the largest does not."""
    low, high = 0.0, HIGHEST
    reached = share(high)
    if reached > allowed:
        return None
    for _ in range(STEPS):
        if allowed - reached < CLOSE:
            break
        middle = (low + high) / 2
        found = share(middle)
        if found > allowed:
            low = middle
        else:
            high, reached = middle, found
    return high


def stepped(share: Share, allowed: float, step: float) -> float | None:
    """The first of equal steps that stays within the budget; None where none does."""
    ratios = [number * step for number in range(1, round(HIGHEST / step) + 1)]
    return next((ratio for ratio in ratios if share(ratio) <= allowed), None)


def search(prune: Prune, job: Job) -> float | None:
    """The smallest ratio whose model stays within the budget; None where there is none."""
    share, allowed = share_of(prune, job)
    if job.steps:
        from benchmark_peers.torch_pruning_runs import STEP

        return stepped(share, allowed, STEP)
    return stepped(share, allowed, SCANNED) if job.target.startswith(TIME) else halved(share, allowed)


def search_all(jobs: Sequence[Job]) -> list[float | None]:
    """Search for each job and write its model.

    Where Torch-Pruning gives every layer one ratio, what is left does not depend on the criterion. With onnxsim it
    does: its Wanda leaves some layers as they are.
    """
    known: dict[object, float | None] = {}
    ratios = []
    for job in jobs:
        alike = job.tool == "torch-pruning" and job.scope == "local"
        criterion = "" if alike else job.method.partition("+")[0]
        key = (job.target, criterion, job.scope, job.steps, job.round_to)
        if key not in known:
            # Neither the number of channels nor the time depends on the statistics.
            known[key] = search(prepared(replace(job, target="", output="", statistics=False)), job)
        ratio = known[key]
        if ratio is not None:
            onnx.save(prepared(replace(job, target="", output=""))(ratio), job.output)
        ratios.append(ratio)
    return ratios


def prepare(job: Job) -> Prune:
    """The peer's pruning of the job's model."""
    if job.tool == "onnxsim":
        from benchmark_peers.onnxsim_pruning import prepare as make
    else:
        from benchmark_peers.torch_pruning_runs import prepare as make
    return make(job)


@cache
def prepared(job: Job) -> Prune:
    """The same, made once for all budgets, and each of its models once."""
    return cache(prepare(job))


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
