"""Time and peak memory of `onnxprune prune`, seen from outside the process, and what `--cache` saves after SIGTERM.

One line of JSON a run: images, wall and CPU seconds, peak resident memory, seconds per stage.

    python tools/bench_scale.py MODEL.onnx --images 64 128 256
    python tools/bench_scale.py MODEL.onnx --images 256 --interrupt 0.7

`MODEL` may be `light:NAME`, a graph of the onnx package such as `resnet50` or `vgg19`, with weights drawn from a seed,
or `stack:LAYERSxWIDTH`, so many 3x3 convolutions of that width with ReLUs on images of 16x16, to see how cost grows.
Other options go on to `onnxprune prune`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def run(arguments: Sequence[str], stop_after_s: float | None = None) -> dict[str, float]:
    """Run the command; after a time send it SIGTERM."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "onnxprune", "prune", *arguments], stdout=subprocess.DEVNULL)
    if stop_after_s is not None:
        time.sleep(stop_after_s)
        process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code != (0 if stop_after_s is None else -signal.SIGTERM):
        raise SystemExit(f"onnxprune ended with status {code}")
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def filled(name: str) -> onnx.ModelProto:
    """A graph of the onnx package with seeded weights in place of its ConstantOfShape nodes."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    rng = np.random.default_rng(0)
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = tuple(int(size) for size in stored[node.input[0]])
        spread = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.1
        value = rng.standard_normal(shape, np.float32) * np.float32(spread)
        if len(shape) < 2:  # perhaps a variance
            value = np.abs(value) + np.float32(0.5)
        proto.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.ir_version = 4  # before, every initializer would have to be an input as well
    read = {name for node in nodes for name in node.input}
    for field in (proto.graph.initializer, proto.graph.input):
        kept = [each for each in field if each.name in read]
        del field[:]
        field.extend(kept)
    return proto


def stack(layers: int, width: int) -> onnx.ModelProto:
    """Convolutions one behind the other, a pooling and a classifier, with seeded weights."""
    rng = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "image", 3
    for number in range(layers):
        kernel = rng.standard_normal((width, channels, 3, 3), np.float32) * np.float32(np.sqrt(2 / (9 * channels)))
        weights += [(f"w{number}", kernel), (f"b{number}", np.zeros(width, np.float32))]
        inputs = [last, f"w{number}", f"b{number}"]
        nodes.append(onnx.helper.make_node("Conv", inputs, [f"c{number}"], pads=[1] * 4, name=f"conv{number}"))
        nodes.append(onnx.helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"))
        last, channels = f"r{number}", width
    weights += [("w", rng.standard_normal((width, 10), np.float32)), ("b", np.zeros(10, np.float32))]
    nodes.append(onnx.helper.make_node("GlobalAveragePool", [last], ["pooled"], name="pool"))
    nodes.append(onnx.helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    nodes.append(onnx.helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], name="fc"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "stack",
        [info("image", onnx.TensorProto.FLOAT, ["n", 3, 16, 16])],
        [info("logits", onnx.TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])


def made(name: str) -> onnx.ModelProto | None:
    """The model that a name stands for; None where it is a file."""
    if name.startswith("light:"):
        return filled(name.removeprefix("light:"))
    if name.startswith("stack:"):
        layers, _, width = name.removeprefix("stack:").partition("x")
        return stack(int(layers), int(width))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=int, nargs="+", default=[256])
    parser.add_argument("--data", default="random")
    parser.add_argument("--target", default="macs=0.7")
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--interrupt", type=float, metavar="SHARE", help="stop a run at this share of the time, go on")
    given, others = parser.parse_known_args()
    for images in given.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            report = folder / "report.json"
            model = given.model
            if (proto := made(given.model)) is not None:
                model = str(folder / "model.onnx")
                onnx.save(proto, model)
            common = [model, "--data", given.data, "--images", str(images), "--target", given.target]
            common += ["--executor", given.executor, "--json", str(report), *others]
            whole = run([*common, "-o", str(folder / "whole.onnx")])
            found: dict[str, object] = {
                "model": given.model,
                "images": images,
                **whole,
                "stages": json.loads(report.read_text())["timings"],
            }
            if given.interrupt is not None:
                cached = [*common, "-o", str(folder / "again.onnx"), "--cache", str(folder / "cache")]
                found["stopped"] = run(cached, given.interrupt * whole["wall_s"])
                found["resumed"] = run(cached)
                found["same_file"] = (folder / "whole.onnx").read_bytes() == (folder / "again.onnx").read_bytes()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
