"""Prune a model, then quantise it to 8 bits with onnxruntime's static quantisation; show what each step costs.

    python docs/recipes/quantize_int8.py MODEL.onnx OUT.onnx --data CALIB.npz --eval EVAL.npz --target macs=0.5

Both steps calibrate on the same rows, which need no labels; figures are those on the evaluation rows, times those of
one thread on this machine (8 bits are faster where its instructions multiply them, and slower in small layers). The
original is quantised too: some models lose much by that alone (attention with a mask of minus infinity is one), and
some onnxruntime's quantiser refuses, pruned or not.
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
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of pruning (times are of one); 0 takes all cores"
    )
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
        small, alone = Path(name) / "pruned.onnx", Path(name) / "alone.onnx"
        quantise(given.model, alone, rows(TRIED_ON))
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
        for model, output in ((given.model, alone), (small, given.output)):
            quantise(model, output, rows(given.quantize_images))
        steps = {"original": given.model, "int8": alone, "pruned": small, "pruned, int8": given.output}
        times = onnxprune.bench(
            [*steps.values()], given.data, threads=1, seconds=3, memory=False, preprocess=preprocess
        )
        for (step, model), time in zip(steps.items(), times, strict=True):
            found = onnxprune.validate(given.model, model, given.eval, time=False, **how)
            metric, change = next(iter(found.metrics.items()))  # top1 of a classifier; docs/outputs.md has the others
            size = f"{stored(model):>9,} bytes ({stored(model) / stored(given.model):.1%})"
            print(f"{step:<14} {metric} {100 * change.after:6.2f} %   {time.ratio:5.0%} of the time   {size}")


if __name__ == "__main__":
    try:
        main()
    except onnxprune.OnnxPruneError as error:
        print(f"quantize_int8: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
