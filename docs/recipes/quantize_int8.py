"""Prune a model, then quantise it to 8 bits with onnxruntime's static quantisation; show what each step costs.

    python docs/recipes/quantize_int8.py MODEL.onnx OUT.onnx --data CALIB.npz --eval EVAL.npz --target macs=0.5

Both steps calibrate on the same rows, which need no labels; the accuracies are those on the evaluation rows.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxprune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.evaluation.metrics import compare
from onnxprune.graph.load import load


class Rows(CalibrationDataReader):
    """Calibration rows, one a feed, as onnxruntime wants them."""

    def __init__(self, data: Dataset) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = data.batches(1)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed, None after the last."""
        return next(self._feeds, None)


def main() -> None:
    """Run the steps and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", required=True, help="calibration rows")
    parser.add_argument("--eval", required=True, help="rows with labels")
    parser.add_argument("--target", default="macs=0.5")
    parser.add_argument("--importance", default="reconstruction")
    parser.add_argument("--images", type=int, default=1000, help="rows that pruning uses")
    parser.add_argument("--quantize-images", type=int, default=200, help="rows that ranges are measured on")
    parser.add_argument("--scale", type=float)
    parser.add_argument("--mean", type=lambda text: tuple(map(float, text.split(","))), default=())
    parser.add_argument("--std", type=lambda text: tuple(map(float, text.split(","))), default=())
    given = parser.parse_args()
    preprocess = PreprocessConfig(mean=given.mean, std=given.std, scale=given.scale)

    original = load(given.model)
    rows = load_data(given.data, original, preprocess, limit=given.quantize_images)
    evaluation = load_data(given.eval, original, preprocess)
    pruned = onnxprune.prune(
        original,
        given.data,
        evaluation=evaluation,
        targets=given.target,
        importance=given.importance,
        images=given.images,
        preprocess=preprocess,
    )
    with tempfile.TemporaryDirectory() as name:
        small, prepared = Path(name) / "pruned.onnx", Path(name) / "prepared.onnx"
        pruned.save(small)
        quant_pre_process(small, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            given.output,
            Rows(rows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        sizes = [path.stat().st_size for path in (given.model, small, given.output)]
    quantised = compare(original, load(given.output), evaluation)["top1"]
    accuracies = [quantised.before, pruned.metrics["top1"].after, quantised.after]
    for step, accuracy, size in zip(("original", "pruned", "pruned, int8"), accuracies, sizes, strict=True):
        print(f"{step:<14} top-1 {100 * accuracy:6.2f} %   file {size:>9,} bytes ({100 * size / sizes[0]:.1f} %)")


if __name__ == "__main__":
    main()
