"""One program as a task that can run in another process: arrays in, arrays out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.importance.oamip.program import build
from onnxprune.importance.oamip.propagate import Propagation
from onnxprune.importance.oamip.solve import solve
from onnxprune.importance.oamip.steps import StepNetwork


@dataclass(frozen=True, slots=True)
class ProgramTask:
    """Everything needed to build and solve one program.

    Attributes:
        name: what messages call the program.
        network: steps to the logits.
        images: per image, values of the network's inputs.
        labels: `(M,)` class of each image.
        layers: per layer, the units whose scores are free.
        fixed: `(units,)` scores of all other units.
        lambda_: weight of the loss.
        how: bounds and gates.
        time_limit: seconds; None for no limit.
        seed: seed of the solver.
        areas: per layer, the neurons that a unit counts for in the sparsity term; None for 1.
    """

    name: str
    network: StepNetwork
    images: tuple[Mapping[str, np.ndarray], ...]
    labels: np.ndarray
    layers: tuple[np.ndarray, ...]
    fixed: np.ndarray
    lambda_: float
    how: Propagation
    time_limit: float | None
    seed: int
    areas: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The solution of one program.

    Attributes:
        units: `(n,)` units that were scored.
        scores: `(n,)` in [0, 1].
        activity: `(n,)` largest activation over the images.
        objective: value of the program.
        bound: lower bound on it.
        sparsity_term: its sparsity term.
        loss_term: its loss term, lambda included.
        status: "optimal" or "limit".
        rounds: programs solved on the way.
        seconds: wall time.
        rows: rows of the program, cuts not counted.
        columns: columns of the program.
        gates: gates with an integer column.
    """

    units: np.ndarray
    scores: np.ndarray
    activity: np.ndarray
    objective: float
    bound: float
    sparsity_term: float
    loss_term: float
    status: str
    rounds: int
    seconds: float
    rows: int
    columns: int
    gates: int


def run_task(task: ProgramTask) -> TaskResult:
    """Build and solve one program.

    Raises:
        ModelError: the program would be too large, or has no logits.
        SolverError: there is no solution, or a solver failed.
    """
    program, largest = build(
        task.network, task.images, task.labels, task.layers, task.fixed, task.lambda_, task.how, task.areas
    )
    solution = solve(program, task.name, time_limit=task.time_limit, seed=task.seed)
    units = np.concatenate(task.layers)
    return TaskResult(
        units=units,
        scores=np.clip(solution.x[np.concatenate(program.layers)], 0.0, 1.0),
        activity=largest[units],
        objective=solution.objective,
        bound=solution.bound,
        sparsity_term=program.sparsity_term(solution.x),
        loss_term=program.loss_term(solution.x),
        status=solution.status,
        rounds=solution.rounds,
        seconds=solution.seconds,
        rows=program.linear.A.shape[0],
        columns=len(program.linear.c),
        gates=int(program.linear.integer.sum()),
    )
