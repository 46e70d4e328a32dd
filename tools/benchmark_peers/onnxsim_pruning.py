"""onnxsim's structured pruning: channels ranked by weight norm (L2), or by weight norm times activation norm (Wanda).

The graph is simplified first, which folds BatchNormalization into convolutions as onnxsim's pruning expects.
`wanda+refit` also runs `apply_pruning_finetune`, the ridge regression of fully connected layers; `wanda+blocks` runs
`apply_block_finetune_all_blocks`, which trains blocks of fully connected layers towards the original's activations.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnxsim

from benchmark_peers.job import Job

BATCH = 50


def prepare(job: Job) -> Callable[[float], onnx.ModelProto]:
    """Read and simplify the model; the returned function prunes a share of its channels."""
    original, _ = onnxsim.simplify(onnx.load(job.model))
    spread = job.scope == "global"
    feeds = _feeds(job, original)

    def prune(ratio: float) -> onnx.ModelProto:
        smaller: onnx.ModelProto
        if job.method == "l2":
            smaller = onnxsim.apply_structured_pruning(original, sparsity=ratio, global_sparsity=spread)
        else:
            smaller = onnxsim.apply_structured_wanda_pruning(original, feeds, sparsity=ratio, global_sparsity=spread)
        if job.method == "wanda+refit":
            smaller = onnxsim.apply_pruning_finetune(original, smaller, feeds)
        elif job.method == "wanda+blocks":
            smaller, _ = onnxsim.apply_block_finetune_all_blocks(original, smaller, calibration_data=feeds)
        return smaller

    return prune


def _feeds(job: Job, model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """The calibration rows as feeds, at the batch that the model allows."""
    value = model.graph.input[0]
    batch = value.type.tensor_type.shape.dim[0].dim_value or BATCH
    rows = np.load(job.calibration)
    return [{value.name: rows[start : start + batch]} for start in range(0, len(rows), batch)]
