"""Prune a model, then quantise it to 8 bits with onnxruntime's static quantisation; show what each step costs.

    python docs/recipes/quantize_int8.py MODEL.onnx OUT.onnx --data CALIB.npz --eval EVAL.npz --target macs=0.5

Both steps calibrate on the same rows, which need no labels; the figures are those on the evaluation rows, times those
on this machine (8 bits are faster where its instructions multiply them, and slower in small layers elsewhere). Some
models onnxruntime's quantiser refuses, pruned or not: it is tried on the original first.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxprune

TRIED_ON = 2  # rows that the original is quantised with, to see whether it can be


class Rows(CalibrationDataReader):
    """Calibration rows, one a feed, as onnxruntime wants them."""

    def __init__(self, feeds: Iterator[dict[str, np.ndarray]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed, None after the last."""
        return next(self._feeds, None)


def quantise(model: Path, output: Path, feeds: Iterator[dict[str, np.ndarray]]) -> None:
    """Write a model with weights and activations of 8 bits."""
    with tempfile.TemporaryDirectory() as name:
        prepared, whole = Path(name) / "prepared.onnx", Path(name) / "whole.onnx"
        try:
            onnx.save(onnx.load(model), whole)  # weights in a file beside the model are not found by the next step
            quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                output,
                Rows(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise onnxprune.ModelError(f"{model}: onnxruntime's quantiser cannot do this model ({reason})") from error


def stored(model: Path) -> int:
    """Bytes of a model's file, and of the weights beside it."""
    return sum(path.stat().st_size for path in (model, Path(f"{model}.data")) if path.exists())


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(map(float, text.split(",")))


def arguments() -> argparse.Namespace:
    """What the command line gives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", required=True, help="calibration rows")
    parser.add_argument("--eval", required=True, help="rows with labels")
    parser.add_argument("--target", default="macs=0.5")
    parser.add_argument("--importance", default="reconstruction")
    parser.add_argument("--images", type=int, default=1000, help="rows that pruning uses")
    parser.add_argument("--quantize-images", type=int, default=200, help="rows that ranges are measured on")
    parser.add_argument("--threads", type=int, default=0, help="threads of pruning; 0 takes all cores")
    parser.add_argument("--output", dest="kinds", action="append", default=[], help="NAME=KIND, as for prune")
    parser.add_argument("--scale", type=float)
    parser.add_argument("--mean", type=numbers, default=())
    parser.add_argument("--std", type=numbers, default=())
    return parser.parse_args()


def main() -> None:
    """Run the steps and print one line for each."""
    given = arguments()
    preprocess = onnxprune.PreprocessConfig(mean=given.mean, std=given.std, scale=given.scale)
    how = {"preprocess": preprocess, "outputs": onnxprune.OutputConfig(kinds=tuple(given.kinds))}

    def rows(number: int) -> Iterator[dict[str, np.ndarray]]:
        return onnxprune.feeds(given.model, given.data, preprocess=preprocess, images=number)

    if not given.output.parent.is_dir():
        raise onnxprune.InputError(f"{given.output}: the folder {given.output.parent} does not exist")
    with tempfile.TemporaryDirectory() as name:
        small = Path(name) / "pruned.onnx"
        quantise(given.model, Path(name) / "tried.onnx", rows(TRIED_ON))
        pruned = onnxprune.prune(
            given.model,
            given.data,
            evaluation=given.eval,
            targets=given.target,
            importance=given.importance,
            images=given.images,
            threads=given.threads,
            **how,
        )
        pruned.save(small)
        quantise(small, given.output, rows(given.quantize_images))
        steps = (given.model, small, given.output)
        sizes = [stored(path) for path in steps]
        times = [found.median_ms for found in onnxprune.bench(steps, threads=given.threads, seconds=2, memory=False)]
    found = onnxprune.validate(given.model, given.output, given.eval, time=False, **how)
    name = next(iter(found.metrics))  # top1 of a classifier; docs/outputs.md has the others
    figures = [found.metrics[name].before, pruned.metrics[name].after, found.metrics[name].after]
    for step, figure, time, size in zip(("original", "pruned", "pruned, int8"), figures, times, sizes, strict=True):
        shares = f"{time:8.3f} ms ({time / times[0]:.0%})   {size:>9,} bytes ({size / sizes[0]:.1%})"
        print(f"{step:<14} {name} {100 * figure:6.2f} %   {shares}")


if __name__ == "__main__":
    try:
        main()
    except onnxprune.OnnxPruneError as error:
        print(f"quantize_int8: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
