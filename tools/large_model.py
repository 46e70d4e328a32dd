"""Memory on a large model with external data: make it, inspect it, prune it, each in a process of its own.

python tools/large_model.py [--megabytes 500] [--folder DIR]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 2048

INSPECT = """
import resource, sys
from onnxprune.structure.analysis import analyze
analysis = analyze(sys.argv[1])
print(f"{analysis.prunable} units, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
"""
PRUNE = """
import resource, sys
import onnxprune
result = onnxprune.prune(sys.argv[1], targets="macs=0.5", importance="magnitude")
result.save(sys.argv[2])
print(f"macs {result.after.macs / result.before.macs:.3f}, "
      f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
"""


def make(path: Path, megabytes: int) -> None:
    """A chain of dense layers with all weights in one data file, written a layer at a time."""
    layers = max(2, round(megabytes * 1e6 / (4 * WIDTH**2)))
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    with (path.parent / "weights.bin").open("wb") as file:
        for layer in range(layers):
            name = f"w{layer}"
            value = rng.standard_normal((WIDTH, WIDTH), np.float32) * np.float32((2 / WIDTH) ** 0.5)
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", "weights.bin"), ("offset", file.tell()), ("length", value.nbytes)):
                tensor.external_data.add(key=key, value=str(entry))
            file.write(value.tobytes())
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [last, name], [f"m{layer}"]))
            nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
            last = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", WIDTH])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Memory on a large model with external data.")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        source, target = Path(folder) / "large.onnx", Path(folder) / "small.onnx"
        make(source, given.megabytes)
        for label, code in (("inspect", INSPECT), ("prune", PRUNE)):
            done = subprocess.run(
                [sys.executable, "-c", code, str(source), str(target)], capture_output=True, text=True, check=True
            )
            print(f"{label}: {done.stdout.strip()}")
        sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in sorted(Path(folder).iterdir()))
        print(f"files: {sizes}")


if __name__ == "__main__":
    main()
