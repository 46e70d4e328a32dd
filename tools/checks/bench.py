"""Runs the command on a case and judges what it wrote."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from checks import oracle
from checks.command import Finished, onnxprune
from checks.contractions import macs, weighted
from checks.corpus import ROOT
from checks.values import constants, outputs, parameters, values

LIMIT_S = 600.0
_EQUAL = 1e-4  # of the largest output: what single precision and another order of sums make
_SLACK = 1.02  # of a budget: the product and the oracle count a few small operators differently
_SHOWN = 300  # letters of a message
Rows = Mapping[str, np.ndarray]


class CaseError(Exception):
    """What was seen is not what should be."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A written file with its plan and its report; `repaired`: its weights may have been refitted."""

    original: Path
    file: Path
    plan: Path
    report: Mapping[str, Any]
    rows: Rows | None
    repaired: bool

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """A batch as the model declares it; made up where the case has no rows."""
        graph = onnx.load(self.original, load_external_data=False).graph
        held = {tensor.name for tensor in graph.initializer}
        rng = np.random.default_rng(1)
        feeds = {}
        for value in graph.input:
            if value.name in held:
                continue
            dims = [dim.dim_value or 4 for dim in value.type.tensor_type.shape.dim]
            made = rng.standard_normal(dims).astype(np.float32) if self.rows is None else self.rows[value.name]
            feeds[value.name] = made[: dims[0]]
        return feeds


class Bench:
    """A folder with the models of the cases, and the command.

    Args:
        folder: the models; results go into folders of their own below it.
        options: more options of every `prune`.
        checkout: folder that holds the package.
    """

    def __init__(self, folder: Path, options: Sequence[str] = (), checkout: Path = ROOT) -> None:
        self.folder = folder
        self.options = tuple(options)
        self.checkout = checkout
        self._results = 0

    def result_folder(self) -> Path:
        """A new, empty folder."""
        self._results += 1
        made = self.folder / "results" / str(self._results)
        made.mkdir(parents=True)
        return made

    def model(self, name: str) -> Path:
        """The file of a model."""
        return self.folder / f"{name}.onnx"

    def command(self, *words: object) -> Finished:
        """Run the command on no terminal."""
        return onnxprune(words, self.folder, checkout=self.checkout, limit_s=LIMIT_S)

    def inspect(self, name: str) -> dict[str, Any]:
        """The machine report of `inspect`.

        Raises:
            CaseError: there is none.
        """
        done = self.command("inspect", self.model(name), "--json", "-", "--quiet")
        if done.code != 0:
            raise CaseError(f"inspect: {told(done)}")
        return dict(json.loads(done.out))

    def try_prune(
        self, model: Path, options: str | Sequence[str], rows: Rows | None, output: Path | None = None
    ) -> tuple[Finished, Pruned | None]:
        """Run `prune`; with what it wrote, if it did."""
        folder = self.result_folder()
        words = shlex.split(options) if isinstance(options, str) else [*options]
        if rows is not None:
            np.savez(folder / "rows.npz", allow_pickle=False, **rows)
            words += ["--data", str(folder / "rows.npz")]
        file, plan, report = output or folder / "model.onnx", folder / "plan.json", folder / "report.json"
        words += ["-o", str(file), "--plan-out", str(plan), "--json", str(report), "--threads", "1", "--quiet"]
        done = self.command("prune", model, *words, *self.options)
        if done.code != 0:
            if output is None and file.exists():
                raise CaseError(f"{told(done)}, but a file was written")
            return done, None
        return done, Pruned(model, file, plan, json.loads(report.read_text()), rows, "--no-repair" not in words)

    def prune(self, model: str, options: str, rows: Rows | None) -> Pruned:
        """Run `prune`.

        Raises:
            CaseError: it wrote nothing.
        """
        done, pruned = self.try_prune(self.model(model), options, rows)
        if pruned is None:
            raise CaseError(told(done))
        return pruned

    def right(self, pruned: Pruned) -> str:
        """How near a written file is to what the oracle expects.

        Raises:
            CaseError: it has other outputs, or does something else.
        """
        original, result = onnx.load(pruned.original), onnx.load(pruned.file)
        if (was := _declared(original)) != (now := _declared(result)):
            raise CaseError(f"declares the outputs {now} instead of {was}")
        feeds = pruned.feeds
        before, after = outputs(original, feeds), outputs(pruned.file, feeds)
        if [(a.shape, a.dtype) for a in before] != [(a.shape, a.dtype) for a in after]:
            raise CaseError("makes outputs of other shapes or types")
        if not all(np.isfinite(a).all() for a in after):
            raise CaseError("makes outputs that are not finite")
        plain = self._without_repair(pruned) if pruned.repaired else pruned
        try:
            wanted = oracle.expected(original, onnx.load(plain.file), feeds)
        except oracle.UntoldError as error:
            raise CaseError(f"what went cannot be told: {error}") from error
        off = oracle.distance(outputs(wanted, feeds), outputs(plain.file, feeds))
        if not off <= _EQUAL:
            raise CaseError(f"differs by {off:.1g} from the original with zeros for what went")
        return f"equals the oracle within {off:.0e}, error {error_of(before, after):.3f}"

    def _without_repair(self, pruned: Pruned) -> Pruned:
        """The same plan, with the remaining weights as they were."""
        done, plain = self.try_prune(pruned.original, ["--plan", str(pruned.plan), "--no-repair"], pruned.rows)
        if plain is None:
            raise CaseError(f"the same plan without repair: {told(done)}")
        return plain

    def cost(self, pruned: Pruned, kind: str) -> float:
        """What is left of the multiply-adds or of the parameters, counted without the product."""
        counts = []
        for path in (pruned.original, pruned.file):
            model = onnx.load(path)
            counts.append(parameters(model) if kind == "params" else own_macs(model, pruned.feeds))
        return counts[1] / counts[0]

    def within(self, pruned: Pruned, kind: str, share: float) -> str:
        """The cost that is left.

        Raises:
            CaseError: it is above the budget, or nothing went.
        """
        left = self.cost(pruned, kind)
        if left > share * _SLACK:
            raise CaseError(f"{kind} {left:.2f} of the original's by the oracle's count, asked for {share:g}")
        return f"{kind} {left:.2f}"


def told(done: Finished) -> str:
    """How a run ended, in a few words."""
    message = done.message if len(done.message) <= _SHOWN else f"{done.message[:_SHOWN]}..."
    code = "no end" if done.code is None else f"signal {-done.code}" if done.code < 0 else f"exit {done.code}"
    return f"{code}: {message}" if message else code


def check(holds: bool, otherwise: str) -> None:
    """Stop a judgement.

    Raises:
        CaseError: it does not hold.
    """
    if not holds:
        raise CaseError(otherwise)


def own_macs(model: onnx.ModelProto, feeds: Rows) -> int:
    """Multiply-adds of one run, of recurrent layers and of products of two activations too."""
    held = values(model, feeds)
    return sum(macs(node, held) for node in model.graph.node)


def contracting(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that contract with a weight."""
    constant = constants(model.graph)
    return [node for node in model.graph.node if weighted(node, constant)]


def error_of(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The largest relative error of an output: its distance to the original's, in lengths of that."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(before, after, strict=True)]
    return max(float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-30) for a, b in pairs)


def _declared(model: onnx.ModelProto) -> list[tuple[str, int, tuple[int, ...]]]:
    """Names, types and fixed sizes of the outputs; 0 stands for a size that is not fixed."""
    tensors = [(value.name, value.type.tensor_type) for value in model.graph.output]
    return [(name, kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim)) for name, kind in tensors]


Judge = Callable[[Bench], str]
