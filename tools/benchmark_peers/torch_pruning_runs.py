"""Torch-Pruning on a torch network with the ONNX file's weights, exported to ONNX again.

Criteria: L1 and L2 norms, FPGM, and Taylor, whose gradients of the cross-entropy are taken over the labelled
calibration rows. The network must give the file's outputs before anything is pruned.
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
    if job.method == "taylor":
        network = _differentiated(job.model, job.calibration, job.labels)

    def prune(ratio: float) -> onnx.ModelProto:
        smaller = _copy_with_gradients(network)
        layers = [(name, m) for name, m in smaller.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        left_alone = [m for name, m in layers if job.ignored and re.fullmatch(job.ignored, name)]
        tp.pruner.BasePruner(
            smaller,
            rows[:1],
            importance=CRITERIA[job.method](),
            pruning_ratio=ratio,
            global_pruning=job.scope == "global",
            ignored_layers=[*left_alone, layers[-1][1]],
        ).step()
        return _export(smaller, rows[:1], original)

    return prune


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
    """A network with the gradients of the mean cross-entropy over the calibration rows."""
    network = copy.deepcopy(_network(model, calibration)[1])
    rows, targets = torch.from_numpy(np.load(calibration)), torch.from_numpy(np.load(labels))
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        functional.cross_entropy(network(rows[part]), targets[part], reduction="sum").div(len(rows)).backward()
    return network


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
