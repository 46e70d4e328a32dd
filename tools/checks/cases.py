"""The cases: small graphs rebuilt from bug reports, with the command that each was tried with and what it should do."""

import hashlib
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from checks.bench import Bench, CaseError, Judge, Rows, check, contracting, error_of, own_macs, told
from checks.values import outputs

Look = Callable[[dict[str, Any], onnx.ModelProto], str]
MAGNITUDE = "--importance magnitude --no-repair"


def normal(name: str, *shape: int) -> Rows:
    """Rows of noise."""
    return {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def right(model: str, options: str, rows: Rows | None = None) -> Judge:
    """The file is written, within its budget, and does what the original does with zeros for what went."""
    kind, share = shlex.split(options)[shlex.split(options).index("--target") + 1].split("=")

    def judge(bench: Bench) -> str:
        pruned = bench.prune(model, options, rows)
        return f"{bench.right(pruned)}, {bench.within(pruned, kind, float(share))}"

    return judge


def inspected(model: str, judge: Look, then: Judge | None = None) -> Judge:
    """`inspect` shows what it should; then, if given, another judgement."""

    def both(bench: Bench) -> str:
        seen = judge(bench.inspect(model), onnx.load(bench.model(model)))
        return seen if then is None else f"{seen}; {then(bench)}"

    return both


def units(report: Mapping[str, Any]) -> list[int]:
    """The sizes of the groups, largest first."""
    return sorted((group["units"] for group in report["groups"]), reverse=True)


def table(report: dict[str, Any], model: onnx.ModelProto) -> str:
    """All layers are listed."""
    wanted, listed = len(contracting(model)), len(report["layers"])
    check(listed >= wanted, f"{listed} layers listed of {wanted}")
    return f"{listed} layers"


def groups(*sizes: int) -> Look:
    """There are groups of these sizes, and no others."""

    def judge(report: dict[str, Any], _: onnx.ModelProto) -> str:
        check(
            units(report) == sorted(sizes, reverse=True),
            f"groups of {units(report) or 'nothing'}, not of {list(sizes)}",
        )
        return f"groups of {list(sizes)}"

    return judge


def counted(report: dict[str, Any], model: onnx.ModelProto) -> str:
    """All layers are listed, with the costs that the oracle counts: for a row, or for the declared batch."""
    listed = table(report, model)
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    feeds = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    batch = next(iter(shapes.values()))[0]
    full, macs = own_macs(model, feeds), report["before"]["macs"]
    check(macs in (full, full // batch), f"{macs} MACs, the oracle counts {full // batch} a row")
    return f"{listed}, {macs} MACs"


def heads(report: dict[str, Any], _: onnx.ModelProto) -> str:
    """Something of the attention can go."""
    check(bool(report["groups"]), f"no groups: {[entry['reason'] for entry in report['not_pruned']]}")
    return f"groups of {units(report)}"


def frozen(model: str, op_type: str, rows: Rows) -> Judge:
    """Channels that the operator has on another axis stay, with its node as the reason; a run is right or refused."""

    def judge(bench: Bench) -> str:
        report = bench.inspect(model)
        offered = [group["name"] for group in report["groups"] if group["units"] == 16]
        check(not offered, f"the channels on another axis are offered as prunable ({offered[0] if offered else ''})")
        reasons = [e for e in report["not_pruned"] if e["op_type"] == op_type and e["node"] and e["tensor"]]
        check(bool(reasons), f"no reason names the {op_type}")
        seen = [f"frozen at {reasons[0]['node']}: {reasons[0]['reason']}"]
        for options in (f"{MAGNITUDE} --target macs=0.6", "--target macs=0.6"):
            done, pruned = bench.try_prune(bench.model(model), options, rows)
            if pruned is None:
                check(done.code in (3, 4) and len(done.lines) == 1, told(done))
            seen.append(told(done) if pruned is None else bench.right(pruned))
        return "; ".join(seen)

    return judge


def text_lstm(bench: Bench) -> str:
    """The weights of recurrent layers count, and no group is emptied that the budget does not need."""
    rows = {"t": np.random.default_rng(0).integers(0, 50, (64, 8))}
    pruned = bench.prune("textlstm", f"{MAGNITUDE} --target macs=0.6", rows)
    kept = {group["name"]: f"{group['kept']} of {group['units']}" for group in pruned.report["groups"]}
    narrow = [f"{g['name']} {g['kept']} of {g['units']}" for g in pruned.report["groups"] if g["kept"] < g["units"] / 5]
    check(not narrow, f"cut below a fifth: {', '.join(narrow)}")
    return f"{bench.right(pruned)}, {bench.within(pruned, 'macs', 0.6)}, {kept}"


def as_twin(bench: Bench) -> str:
    """A contrib operator in the middle changes no figure."""
    first, second = (bench.inspect(name) for name in ("contrib_middle", "contrib_middle_twin"))
    check(first["before"] == second["before"], f"{first['before']['macs']} MACs seen of {second['before']['macs']}")
    check(units(first) == units(second), f"groups of {units(first)}, the twin's {units(second)}")
    shares = []
    for name in ("contrib_middle", "contrib_middle_twin"):
        pruned = bench.prune(name, f"{MAGNITUDE} --target macs=0.8", None)
        bench.right(pruned)
        bench.within(pruned, "macs", 0.8)
        shares.append(pruned.report["after"]["macs"] / pruned.report["before"]["macs"])
    check(abs(shares[0] - shares[1]) < 0.03, f"{shares[0]:.2f} of the MACs are left, of the twin's {shares[1]:.2f}")
    return f"{first['before']['macs']} MACs, {shares[0]:.2f} left; twin {shares[1]:.2f}"


def as_own_bias(bench: Bench) -> str:
    """A bias that three layers share costs no accuracy."""
    rows, fresh = (
        normal("x", 200, 3, 12, 12),
        np.random.default_rng(9).standard_normal((64, 3, 12, 12)).astype(np.float32),
    )
    errors = []
    for name in ("shared_bias", "own_bias"):
        pruned = bench.prune(name, "--target macs=0.5", rows)
        bench.right(pruned)
        bench.within(pruned, "macs", 0.5)
        errors.append(error_of(outputs(pruned.original, {"x": fresh}), outputs(pruned.file, {"x": fresh})))
    check(errors[0] <= errors[1] * 1.05, f"error {errors[0]:.3f}, with biases of their own {errors[1]:.3f}")
    return f"error {errors[0]:.3f}, with biases of their own {errors[1]:.3f}"


def weight_is_output(bench: Bench) -> str:
    """A weight that is an output stays; the rest is prunable."""
    report = bench.inspect("init_out")
    check(units(report) == [32], f"groups of {units(report) or 'nothing'}, not of [32]")
    pruned = bench.prune("init_out", f"{MAGNITUDE} --target params=0.9", None)
    feeds = pruned.feeds
    same = np.array_equal(outputs(pruned.original, feeds)[1], outputs(pruned.file, feeds)[1])
    check(same, "the weight that is an output changed")
    return f"groups of [32]; {bench.right(pruned)}, {bench.within(pruned, 'params', 0.9)}"


def sparse(bench: Bench) -> str:
    """A sparse initializer is read, or refused by its name."""
    try:
        report = bench.inspect("sparse")
    except CaseError as refusal:
        check("exit 3" in str(refusal) and "sparse initializer" in str(refusal).lower(), str(refusal))
        return str(refusal)
    check(len(report["layers"]) == 3, f"{len(report['layers'])} layers listed of 3")
    return "read: 3 layers"


def exact_name(bench: Bench) -> str:
    """`--keep` with a name that has brackets keeps that layer."""
    name = "Model/Sequential[model]/C3[2]/Conv[cv0]"
    done, pruned = bench.try_prune(
        bench.model("names"), [*MAGNITUDE.split(), "--target", "macs=0.6", "--keep", name], None
    )
    if pruned is None:
        raise CaseError(told(done))
    weight = next(tensor for tensor in onnx.load(pruned.file).graph.initializer if tensor.name == "w1")
    check(weight.dims[0] == 16, f"the layer was pruned to {weight.dims[0]} channels")
    return f"kept; {bench.right(pruned)}"


def nothing_goes(bench: Bench) -> str:
    """Columns that look alike but are no copies stay."""
    pruned = bench.prune("gemm_computed_c", "--lossless", None)
    before, after = (
        {t.name: tuple(t.dims) for t in onnx.load(path).graph.initializer} for path in (pruned.original, pruned.file)
    )
    check(before == after, "weights were removed")
    off = error_of(outputs(pruned.original, pruned.feeds), outputs(pruned.file, pruned.feeds))
    check(off < 1e-5, f"relative error {off:.2g}")
    return "nothing removed"


def original_loads(bench: Bench) -> str:
    """A data file that the original reads is never written."""
    folder = bench.folder / "renamed"
    original, data = folder / "original.onnx", folder / "model.onnx.data"
    rows = normal("x", 16, 32)
    before, held = outputs(original, rows), _digest(data)
    done, pruned = bench.try_prune(original, f"{MAGNITUDE} --target macs=0.6", None, folder / "model.onnx")
    check(_digest(data) == held, f"{told(done)}, the original's weights were overwritten")
    check(error_of(before, outputs(original, rows)) == 0, "the original computes something else")
    if pruned is None:
        check(done.code in (2, 3) and len(done.lines) == 1, told(done))
        check(not (folder / "model.onnx").exists(), "refused, but a file was written")
        return f"refused: {told(done)}"
    return f"written under another name; {bench.right(pruned)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


CASES: Mapping[str, Judge] = {
    "fixed_batch": inspected(
        "fixed_batch", counted, right("fixed_batch", "--target macs=0.6", normal("x", 64, 3, 8, 8))
    ),
    "vit_b4": inspected("vit_b4", counted, right("vit_b4", "--target macs=0.6", normal("x", 64, 3, 16, 16))),
    "gn21": right("gn21", f"{MAGNITUDE} --target macs=0.6"),
    "gn1": right("gn1", f"{MAGNITUDE} --target macs=0.6"),
    "crnn": right("crnn", "--target params=0.6", normal("x", 64, 1, 8, 24)),
    "chan_batch": frozen("chan_batch", "Conv", normal("x", 64, 3, 9, 9)),
    "chan_lstm": frozen("chan_lstm", "LSTM", normal("x", 64, 3, 9, 9)),
    "textlstm": text_lstm,
    "qdq": inspected("qdq", table),
    "fusedconv": inspected("fusedconv", counted, right("fusedconv", "--target macs=0.7", normal("x", 64, 3, 9, 9))),
    "ort_mha": inspected("ort_mha", counted, right("ort_mha", "--target macs=0.7", normal("x", 64, 6, 32))),
    "contrib_middle": as_twin,
    "id_bias": inspected("id_bias", groups(16, 16, 16)),
    "shared_bias": as_own_bias,
    "packed3": inspected("packed3", heads, right("packed3", "--target macs=0.7", normal("x", 64, 6, 32))),
    "mqa": inspected("mqa", heads, right("mqa", "--target macs=0.7", normal("x", 64, 6, 32))),
    "lstm_fixed_batch": right("lstm_fixed_batch", "--target params=0.5", normal("x", 500, 20, 40)),
    "lstm2_dynamic_batch": inspected(
        "lstm2_dynamic_batch", groups(64, 64), right("lstm2_dynamic_batch", f"{MAGNITUDE} --target params=0.6")
    ),
    "lstm_dynamo": inspected("lstm_dynamo", groups(64), right("lstm_dynamo", f"{MAGNITUDE} --target params=0.6")),
    "wn": inspected("wn", groups(24), right("wn", f"{MAGNITUDE} --target macs=0.6")),
    "init_out": weight_is_output,
    "sparse": sparse,
    "names": exact_name,
    "node_named_like_output": right("node_named_like_output", "--target macs=0.6", normal("x", 200, 6)),
    "gemm_computed_c": nothing_goes,
    "slice_int32_shared": right("slice_int32_shared", f"{MAGNITUDE} --target macs=0.6"),
    "long_chain": inspected("long_chain", table),
    "renamed/original": original_loads,
}
