"""Torch-Pruning on a torch network with the ONNX file's weights, exported to ONNX again.

Criteria: L1 and L2 norms, FPGM, and Taylor, whose gradients of the cross-entropy are taken over labelled calibration
rows. The network must give the file's outputs before anything is pruned. Channels go at once, or in small steps with
scores taken anew before each; BatchNormalization's statistics may be estimated again on the calibration rows.
"""

import copy
import io
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

from benchmark_peers.job import Job
from benchmark_peers.torch_network import Builder

BATCH = 50
GRADIENT_BATCH = 10  # on one core as fast as larger ones on small images, faster on large ones
STEP = 0.0225  # share of the channels that go in a step: 40 steps to the largest ratio
GRADIENT_SHARE = 0.5  # of the rows, whose gradients Taylor takes before each step
CRITERIA: dict[str, Callable[[], Any]] = {
    "l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "l2": lambda: tp.importance.MagnitudeImportance(p=2),
    "fpgm": tp.importance.FPGMImportance,
    "taylor": tp.importance.TaylorImportance,
}
_LARGEST_DIFFERENCE = 1e-4  # relative to the outputs


def prepare(job: Job) -> Callable[[float], onnx.ModelProto]:
    """Build the network; the returned function prunes a share of its channels and exports it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    original, network = _network(job.model, job.calibration)
    rows = torch.from_numpy(np.load(job.calibration))
    path = _path(job.model, job.calibration, job.labels, job.method, job.scope, job.round_to, job.ignored)

    def prune(ratio: float) -> onnx.ModelProto:
        smaller = path.at(ratio) if job.steps else _pruned_at_once(network, job, ratio)
        if job.statistics:
            _estimate_again(smaller, rows)
        return _export(smaller, rows[:1], original)

    return prune


def _pruned_at_once(network: Any, job: Job, ratio: float) -> Any:
    smaller = copy.deepcopy(network)
    if job.method == "taylor":
        smaller = _copy_with_gradients(_differentiated(job.model, job.calibration, job.labels))
    rows = torch.from_numpy(np.load(job.calibration)[:1])
    _pruner(smaller, rows, job.method, job.scope, job.round_to, job.ignored, ratio, 1).step()
    return smaller


class _Path:
    """A network that loses channels step by step, and all it was on the way."""

    def __init__(
        self, model: str, calibration: str, labels: str, method: str, scope: str, round_to: int, ignored: str
    ) -> None:
        self._now = copy.deepcopy(_network(model, calibration)[1])
        self._rows, self._labels = torch.from_numpy(np.load(calibration)), torch.from_numpy(np.load(labels))
        self._differentiates = method == "taylor"
        steps = round(0.9 / STEP)
        self._pruner = _pruner(self._now, self._rows[:1], method, scope, round_to, ignored, steps * STEP, steps)
        self._been = [copy.deepcopy(self._now)]

    def at(self, ratio: float) -> Any:
        """A copy of the network after the steps that make a ratio."""
        while len(self._been) <= round(ratio / STEP):
            if self._differentiates:
                self._now.zero_grad()
                count = round(GRADIENT_SHARE * len(self._rows))
                chosen = np.random.default_rng(0).permutation(len(self._rows))[:count]
                _take_gradients(self._now, self._rows[chosen], self._labels[chosen])
            self._pruner.step()
            self._been.append(copy.deepcopy(self._now))
        return copy.deepcopy(self._been[round(ratio / STEP)])


_path = cache(_Path)  # one for all budgets


def _pruner(
    network: Any, row: torch.Tensor, method: str, scope: str, round_to: int, ignored: str, ratio: float, steps: int
) -> Any:
    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    left_alone = [m for name, m in layers if ignored and re.fullmatch(ignored, name)]
    return tp.pruner.BasePruner(
        network,
        row,
        importance=CRITERIA[method](),
        pruning_ratio=ratio,
        iterative_steps=steps,
        global_pruning=scope == "global",
        round_to=round_to if round_to > 1 else None,
        ignored_layers=[*left_alone, layers[-1][1]],
    )


def _estimate_again(network: Any, rows: torch.Tensor) -> None:
    """Give every BatchNormalization the means and variances that it sees on the rows."""
    normalisations = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in normalisations:
        module.reset_running_stats()
        module.momentum = None  # the average over all batches
        module.train()
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            network(rows[start : start + BATCH])
    network.eval()


@cache
def _network(model: str, calibration: str) -> tuple[onnx.ModelProto, Any]:
    """The file and its network, whose outputs on a few rows have been compared."""
    original = onnx.load(model)
    source = original.graph.input[0]
    network = Builder(onnxsim.simplify(original, skip_fuse_bn=True)[0]).module()
    rows = torch.from_numpy(np.load(calibration)[: source.type.tensor_type.shape.dim[0].dim_value or 16])
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {source.name: rows.numpy()})[0]
    with torch.no_grad():
        difference = np.abs(network(rows).numpy() - wanted).max() / np.abs(wanted).max()
    if not difference < _LARGEST_DIFFERENCE:
        raise SystemExit(f"{model}: the torch network's outputs differ by {difference:.2g}")
    return original, network


@cache
def _differentiated(model: str, calibration: str, labels: str) -> Any:
    """A network with the gradients over all calibration rows."""
    network = copy.deepcopy(_network(model, calibration)[1])
    _take_gradients(network, torch.from_numpy(np.load(calibration)), torch.from_numpy(np.load(labels)))
    return network


def _take_gradients(network: Any, rows: torch.Tensor, labels: torch.Tensor) -> None:
    """Add the gradients of the mean cross-entropy over the rows."""
    for start in range(0, len(rows), GRADIENT_BATCH):
        part = slice(start, start + GRADIENT_BATCH)
        functional.cross_entropy(network(rows[part]), labels[part], reduction="sum").div(len(rows)).backward()


def _copy_with_gradients(network: Any) -> Any:
    """A copy whose parameters have the gradients too, which `deepcopy` leaves behind."""
    other = copy.deepcopy(network)
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.clone()
    return other


def _export(network: Any, example: torch.Tensor, original: onnx.ModelProto) -> onnx.ModelProto:
    source, result = original.graph.input[0], original.graph.output[0]
    fixed = bool(source.type.tensor_type.shape.dim[0].dim_value)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (example,),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=[source.name],
            output_names=[result.name],
            dynamic_axes=None if fixed else {source.name: {0: "batch"}, result.name: {0: "batch"}},
        )
    return onnx.load_from_string(buffer.getvalue())
