"""Check that it makes no difference how a detector's output is arranged.

    python tools/check_arrangements.py MODEL.onnx --data ROWS.npz [--eval ROWS.npz] [--target macs=0.8]
        [--axis 1] [--boxes 4] [--only NAME]... [--keep FOLDER]

The model has one output with boxes (the first columns along an axis) and scores. It is pruned as it is, with boxes and
scores as two outputs, transposed, with boxes or all values scaled, and with the scores in front. Each time every group
must keep the same share of its units within five points, and as many detections must be found again within two.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from checks.bench import told
from checks.command import onnxprune
from onnx import helper, numpy_helper

_POINTS = 5.0  # how far the share of a group's units may be apart
_FOUND = 2.0  # how many points fewer detections may be found again
_SCALE = 1000.0


class Arrangement:
    """A detector whose output is put out in another way.

    Args:
        model: the detector.
        axis: of its output: boxes and scores lie along it.
        boxes: how many columns the boxes take.
    """

    def __init__(self, model: onnx.ModelProto, axis: int, boxes: int) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._axis, self._boxes = axis, boxes
        (output,) = self.model.graph.output
        self._name, self._kind = output.name, output.type.tensor_type.elem_type
        self._sizes = [size.dim_value or None for size in output.type.tensor_type.shape.dim]
        self._whole = f"{output.name}_as_it_was"
        for node in self.model.graph.node:
            for names in (node.input, node.output):
                names[:] = [self._whole if name == output.name else name for name in names]
        self.model.graph.ClearField("output")

    def two_outputs(self) -> None:
        """Boxes and scores apart."""
        for name, columns in self._split().items():
            self._put_out(name, [columns if axis == self._axis else size for axis, size in enumerate(self._sizes)])

    def scores_first(self) -> None:
        """Scores in front of the boxes."""
        self._add("Concat", [*reversed(self._split())], axis=self._axis)
        self._put_out(self._name, self._sizes)

    def transposed(self) -> None:
        """Axes in another order, the rows still first."""
        order = [0, *reversed(range(1, len(self._sizes)))]
        self._add("Transpose", [self._whole], perm=order)
        self._put_out(self._name, [self._sizes[axis] for axis in order])

    def scaled_boxes(self) -> None:
        """Boxes a thousand times as large."""
        self._scale(np.where(np.arange(self._columns) < self._boxes, _SCALE, 1.0))

    def scaled(self) -> None:
        """All values a thousand times as large."""
        self._scale(np.full(self._columns, _SCALE))

    @property
    def _columns(self) -> int:
        columns: int | None = self._sizes[self._axis]
        if columns is None:
            raise ValueError(f"the file does not tell the size of axis {self._axis} of {self._name!r}")
        return columns

    def _split(self) -> dict[str, int]:
        """Boxes and scores by their names, with how many columns they have."""
        parts = {f"{self._name}_boxes": self._boxes, f"{self._name}_scores": self._columns - self._boxes}
        self._constant("parts", np.array([*parts.values()]))
        self.model.graph.node.append(helper.make_node("Split", [self._whole, "parts"], [*parts], axis=self._axis))
        return parts

    def _scale(self, by: np.ndarray) -> None:
        shape = [1] * len(self._sizes)
        shape[self._axis] = -1
        self._constant("scale", by.astype(helper.tensor_dtype_to_np_dtype(self._kind)).reshape(shape))
        self._add("Mul", [self._whole, "scale"])
        self._put_out(self._name, self._sizes)

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))

    def _add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> None:
        self.model.graph.node.append(helper.make_node(operator, inputs, [self._name], **attributes))

    def _put_out(self, name: str, sizes: Sequence[int | None]) -> None:
        self.model.graph.output.append(helper.make_tensor_value_info(name, self._kind, sizes))


ARRANGEMENTS: dict[str, Callable[[Arrangement], None]] = {
    "two outputs": Arrangement.two_outputs,
    "scores first": Arrangement.scores_first,
    "transposed": Arrangement.transposed,
    "boxes scaled": Arrangement.scaled_boxes,
    "all scaled": Arrangement.scaled,
}


def pruned(model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Prune and compare one arrangement: the share of each group that stays, and what is found again."""
    result, report = model.with_suffix(".small.onnx"), model.with_suffix(".json")
    words = ["--data", given.data.resolve(), "--eval", (given.evaluation or given.data).resolve()]
    words += ["--target", given.target, "--threads", "1", "--quiet", "--no-time"]
    done = onnxprune(["prune", model, "-o", result, "--json", report, *words], model.parent)
    if done.code != 0:
        return {"message": told(done)}
    said = json.loads(report.read_text())
    return {
        "shares": {group["name"]: group["kept"] / group["units"] for group in said["groups"]},
        "found_again": said["metrics"].get("found_again", {}).get("after"),
    }


def differences(plain: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What an arrangement changes that it must not change."""
    if "message" in other:
        return [other["message"]]
    if other["found_again"] is None:
        return ["its output is not taken for boxes beside scores"]
    apart = {name: 100 * abs(share - other["shares"].get(name, 1.0)) for name, share in plain["shares"].items()}
    wrong = [f"{name} keeps {points:.0f} points more or less" for name, points in apart.items() if points > _POINTS]
    if 100 * (plain["found_again"] - other["found_again"]) > _FOUND:
        wrong.append("fewer detections are found again")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="calibration rows")
    parser.add_argument("--eval", type=Path, dest="evaluation", help="rows that judge; those of --data by default")
    parser.add_argument("--target", default="macs=0.8")
    parser.add_argument("--axis", type=int, default=1, help="of the output, along which boxes and scores lie")
    parser.add_argument("--boxes", type=int, default=4, help="how many columns the boxes take; they come first")
    parser.add_argument("--only", action="append", choices=[*ARRANGEMENTS], help="only this arrangement")
    parser.add_argument("--keep", type=Path, help="keep models and reports in this folder")
    given = parser.parse_args(arguments)
    plain = onnx.load(given.model)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "plain.onnx"
        onnx.save(plain, path)
        first = pruned(path, given)
        if first.get("found_again") is None:
            print(f"plain: {first.get('message', 'the output is not taken for boxes beside scores')}")
            return 1
        print(f"{'plain':14} found again {first['found_again']:.3f}", flush=True)
        for name in given.only or ARRANGEMENTS:
            arrangement = Arrangement(plain, given.axis, given.boxes)
            ARRANGEMENTS[name](arrangement)
            path = folder / f"{name.replace(' ', '_')}.onnx"
            onnx.save(arrangement.model, path)
            other = pruned(path, given)
            wrong = differences(first, other)
            shares = other.get("shares", {})
            most = max((100 * abs(shares.get(group, 1) - share) for group, share in first["shares"].items()), default=0)
            found = other.get("found_again")
            said = f"{name:14} found again {found}  shares within {most:.1f} points  {'; '.join(wrong)}"
            print(said.rstrip(), flush=True)
            failed += bool(wrong)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
