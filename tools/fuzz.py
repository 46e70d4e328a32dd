"""Mutate models and put them through load, analysis, removal and saving: nothing may crash, hang or come out broken.

With `--whole` through whole runs on random rows, which also score, decide, try and repair: for small models.

    python tools/fuzz.py MODEL.onnx... [--count 1000] [--seed 0] [--whole]

A mutant may be refused with an `OnnxPruneError` of one line. Anything else is printed with the seed that repeats it.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune import prune
from onnxprune.core.errors import OnnxPruneError
from onnxprune.graph.load import load
from onnxprune.structure.check import RemovalCheck
from onnxprune.structure.coupling import analyse
from onnxprune.structure.removal import remove
from onnxprune.structure.save import save

Rng = np.random.Generator
LIMIT_S = 60.0
BUDGETS = ("macs", "params", "bytes")
ROWS = (4, 30, 70, 330)  # calibration rows: from few that do everything to as many as have a role each
ROUNDINGS = ("kernel", 1)
ABSURD = (-1, 0, 1, 2, 2**31, 2**62)


def bytes_flipped(data: bytes, rng: Rng) -> bytes:
    """One to eight bytes of the file changed."""
    changed = bytearray(data)
    for place in rng.integers(0, len(changed), rng.integers(1, 9)):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


def head_flipped(data: bytes, rng: Rng) -> bytes:
    """Bytes changed where the graph's structure is: in front of the weights, or behind them."""
    changed = bytearray(data)
    window = min(len(changed), 4096)
    start = 0 if rng.random() < 0.5 else len(changed) - window
    for place in rng.integers(start, start + window, rng.integers(1, 5)):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


def cut_off(data: bytes, rng: Rng) -> bytes:
    """The file's beginning."""
    return data[: int(rng.integers(0, len(data)))]


def _structural(change: Callable[[onnx.GraphProto, Rng], None]) -> Callable[[bytes, Rng], bytes]:
    def mutate(data: bytes, rng: Rng) -> bytes:
        proto = onnx.load_model_from_string(data)
        change(proto.graph, rng)
        return bytes(proto.SerializeToString())

    mutate.__name__ = change.__name__
    return mutate


def _pick(items: Sequence[object], rng: Rng) -> int:
    return int(rng.integers(0, len(items)))


def edge_moved(graph: onnx.GraphProto, rng: Rng) -> None:
    """An input of a node is any tensor: cycles, wrong shapes, undefined names."""
    names = [name for node in graph.node for name in (*node.input, *node.output)] + ["undefined", ""]
    node = graph.node[_pick(graph.node, rng)]
    if node.input:
        node.input[_pick(node.input, rng)] = names[_pick(names, rng)]


def output_renamed(graph: onnx.GraphProto, rng: Rng) -> None:
    """A node makes a tensor that exists already, or none."""
    names = [name for node in graph.node for name in node.output] + ["", "fresh"]
    node = graph.node[_pick(graph.node, rng)]
    if node.output:
        node.output[_pick(node.output, rng)] = names[_pick(names, rng)]


def node_dropped(graph: onnx.GraphProto, rng: Rng) -> None:
    """A node is missing."""
    del graph.node[_pick(graph.node, rng)]


def node_retyped(graph: onnx.GraphProto, rng: Rng) -> None:
    """A node is another operator, or one of an unknown domain."""
    types = [node.op_type for node in graph.node] + ["NoSuchOperator", "Reshape", "Gather", "Loop", "Softmax"]
    node = graph.node[_pick(graph.node, rng)]
    node.op_type = types[_pick(types, rng)]
    if rng.random() < 0.2:
        node.domain = "somewhere"


def attribute_changed(graph: onnx.GraphProto, rng: Rng) -> None:
    """A number in an attribute is absurd."""
    nodes = [node for node in graph.node if node.attribute]
    if not nodes:
        return
    node = nodes[_pick(nodes, rng)]
    attribute = node.attribute[_pick(node.attribute, rng)]
    value = ABSURD[_pick(ABSURD, rng)]
    if attribute.ints:
        attribute.ints[_pick(attribute.ints, rng)] = value
    else:
        attribute.i = value


def dimension_changed(graph: onnx.GraphProto, rng: Rng) -> None:
    """A declared dimension is absurd."""
    values = [value for value in (*graph.input, *graph.output) if value.type.tensor_type.shape.dim]
    if values:
        dims = values[_pick(values, rng)].type.tensor_type.shape.dim
        dims[_pick(dims, rng)].dim_value = ABSURD[_pick(ABSURD, rng)]


def weight_damaged(graph: onnx.GraphProto, rng: Rng) -> None:
    """An initializer is missing, has another shape or type, or holds no numbers."""
    if not graph.initializer:
        return
    index = _pick(graph.initializer, rng)
    tensor = graph.initializer[index]
    kind = rng.integers(0, 4)
    if kind == 0:
        del graph.initializer[index]
    elif kind == 1 and tensor.dims:
        tensor.dims[_pick(tensor.dims, rng)] = ABSURD[_pick(ABSURD, rng)]
    elif kind == 2:
        tensor.data_type = int(rng.integers(0, 30))
    elif tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()


def name_duplicated(graph: onnx.GraphProto, rng: Rng) -> None:
    """Two initializers, or an input and a node, have one name."""
    names = [tensor.name for tensor in graph.initializer] + [value.name for value in graph.input]
    names += [node.output[0] for node in graph.node if node.output]
    if graph.initializer:
        graph.initializer[_pick(graph.initializer, rng)].name = names[_pick(names, rng)]


def axis_changed(graph: onnx.GraphProto, rng: Rng) -> None:
    """A node works on another axis."""
    found = [
        a for node in graph.node for a in node.attribute if a.name in ("axis", "axes", "split", "group", "keepdims")
    ]
    if found:
        attribute = found[_pick(found, rng)]
        if attribute.ints:
            attribute.ints[_pick(attribute.ints, rng)] = int(rng.integers(-4, 4))
        else:
            attribute.i = int(rng.integers(-4, 4))


def axes_permuted(graph: onnx.GraphProto, rng: Rng) -> None:
    """A Transpose has another permutation."""
    found = [a for node in graph.node for a in node.attribute if a.name == "perm"]
    if found:
        attribute = found[_pick(found, rng)]
        attribute.ints[:] = [int(axis) for axis in rng.permutation(attribute.ints)]


def axes_turned(graph: onnx.GraphProto, rng: Rng) -> None:
    """A node works on its input with all axes reversed, and mostly its result is turned back."""
    places = [index for index, node in enumerate(graph.node) if node.input and node.input[0] and node.output]
    if not places:
        return
    place = places[_pick(places, rng)]
    node = graph.node[place]
    turn = onnx.helper.make_node("Transpose", [node.input[0]], ["turned_in"])
    back = onnx.helper.make_node("Transpose", ["turned_out"], [node.output[0]])
    node.input[0] = "turned_in"
    after = []
    if rng.random() < 0.8:
        node.output[0], after = "turned_out", [back]
    nodes = [*graph.node[:place], turn, node, *after, *graph.node[place + 1 :]]
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def batch_changed(graph: onnx.GraphProto, rng: Rng) -> None:
    """All inputs, or one, have another batch size or none, and perhaps the outputs too."""
    size = int(rng.integers(0, 6))
    inputs = list(graph.input)
    chosen = inputs if rng.random() < 0.7 or not inputs else [inputs[_pick(inputs, rng)]]
    for value in [*chosen, *(graph.output if rng.random() < 0.7 else ())]:
        dims = value.type.tensor_type.shape.dim
        if dims and size:
            dims[0].dim_value = size
        elif dims:
            dims[0].dim_param = "N"


def sizes_changed(graph: onnx.GraphProto, rng: Rng) -> None:
    """A vector of sizes or limits has another order, or another number in it."""
    found = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64 and list(t.dims) not in ([], [0])]
    if found:
        tensor = found[_pick(found, rng)]
        value = onnx.numpy_helper.to_array(tensor).copy()
        if rng.random() < 0.4:
            value = rng.permutation(value)
        else:
            value.reshape(-1)[_pick(range(value.size), rng)] = int(rng.choice([-1, 0, 1, 2, 3, 4, 8]))
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


MUTATIONS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    bytes_flipped,
    head_flipped,
    cut_off,
    *map(_structural, (edge_moved, output_renamed, node_dropped, node_retyped)),
    *map(_structural, (attribute_changed, dimension_changed, weight_damaged, name_duplicated)),
    *map(_structural, (axis_changed, axes_permuted, axes_turned, batch_changed, sizes_changed)),
)


def mutant(data: bytes, seed: int) -> tuple[str, bytes]:
    """A changed file and the name of what was done to it."""
    rng = np.random.default_rng(seed)
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    return mutation.__name__, mutation(data, rng)


def survive(data: bytes, folder: Path, seed: int, *, whole: bool = False) -> str:
    """Put a file through analysis, removal of random units and saving, or through a whole run.

    Args:
        data: the file.
        folder: for the file and the result.
        seed: draws units or options.
        whole: whether a run on random rows scores, decides, tries and repairs.

    Returns:
        "pruned", or why it was refused.

    Raises:
        Exception: whatever is no clean refusal.
    """
    source, target = folder / "mutant.onnx", folder / "out.onnx"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    try:
        if whole:
            budget, rows, rounding = (some[int(rng.integers(len(some)))] for some in (BUDGETS, ROWS, ROUNDINGS))
            options: dict[str, Any] = {"images": rows, "round_to": rounding, "threads": 1, "workers": 1, "time": False}
            prune(source, "random", targets={budget: float(rng.uniform(0.5, 0.95))}, **options).save(target)
        else:
            model = load(source)
            analysis = analyse(model)
            removed = analysis.none_removed()
            for group in analysis.groups:
                removed[rng.choice(group.units, min(len(group) - 1, 1 + len(group) // 5), replace=False)] = True
            smaller = remove(analysis, removed)
            save(smaller, target, RemovalCheck(analysis, removed, changed=False))
    except OnnxPruneError as error:
        text = str(error)
        assert "\n" not in text, f"more than one line: {text!r}"
        assert not target.exists(), "a refused file was written"
        return text
    seconds = time.perf_counter() - began
    assert seconds < LIMIT_S, f"took {seconds:.0f} s"
    return "pruned"


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutate models and put them through onnxprune.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="whole runs on random rows, trials and repair included")
    given = parser.parse_args(arguments)
    pruned = refused = failed = 0
    run = partial(survive, whole=given.whole)
    pool = multiprocessing.get_context("spawn").Pool(1)  # what a mutant does to its process, it does to that one
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.count):
            seed = given.seed + number
            path = given.models[number % len(given.models)]
            kind, data = mutant(path.read_bytes(), seed)
            try:
                outcome = pool.apply_async(run, (data, Path(folder), seed)).get(2 * LIMIT_S)
            except multiprocessing.TimeoutError:
                failed += 1
                print(f"seed {seed} {path} {kind}: the process ended or hangs", flush=True)
                pool.terminate()
                pool = multiprocessing.get_context("spawn").Pool(1)
                continue
            except Exception as error:  # noqa: BLE001 (the point of the tool: no exception may escape)
                failed += 1
                print(f"seed {seed} {path} {kind}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            pruned, refused = pruned + (outcome == "pruned"), refused + (outcome != "pruned")
            if "does not do what the original does" in outcome:
                failed += 1
                print(f"seed {seed} {path} {kind}: wrong result: {outcome}", flush=True)
    pool.terminate()
    print(f"{pruned} pruned, {refused} refused, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
