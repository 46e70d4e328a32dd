"""Mutation testing of labels, removal and operator handlers: change one thing and see whether the tests notice.

    python tools/mutate.py [--count 100] [--seed 0] [--jobs 2]
    python tools/mutate.py --only ops/conv.py:37

Works on copies of the project. A survivor is a change that no test of `TESTS` objects to: a missing test, or a change
without consequence. Tests that carry the names of the changed file's classes run first, and quick ones before slow
ones, so that only a survivor needs them all.
"""

import argparse
import ast
import copy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (
    *("ops/labels.py", "structure/coupling.py", "structure/shape_arithmetic.py", "structure/removal.py", "ops/base.py"),
    *("ops/conv.py", "ops/dense.py", "ops/dynamic.py", "ops/elementwise.py", "ops/join.py", "ops/normalization.py"),
    *("ops/pad.py", "ops/pool.py", "ops/product.py", "ops/quantize.py", "ops/recurrent.py", "ops/reduce.py"),
    *("ops/select.py", "ops/shape.py", "ops/spatial.py", "lossless/find.py", "lossless/intervals.py"),
    *("lossless/numbering.py",),
)
# The quick and general ones first; a folder adds what is not named before it.
TESTS = (
    *("tests/lossless/test_where_contributions_can_go.py", "tests/ops/test_rare_shapes.py", "tests/ops/test_traits.py"),
    *("tests/graph/test_exporters.py", "tests/lossless/test_lossless.py", "tests/ops/test_rare_forms.py"),
    *("tests/graph/test_what_branches_leave.py", "tests/graph/test_folding.py", "tests/structure"),
    *("tests/importance/test_values.py", "tests/allocation/test_widths.py", "tests/graph/test_gradient_forms.py"),
    *("tests/graph/test_check.py", "tests/graph/test_oracle.py", "tests/graph/test_whole_branches.py", "tests/ops"),
    *("tests/graph/test_gradient.py", "tests/lossless"),
)
LIMIT_S = 600  # of processor time
NOTHING_CHOSEN = 5  # what pytest returns where no test has a chosen name
# Rules for torch have tests of their own; examples are tests.
SKIPPED = (
    "torch",
    "torch_training",
    "trained",
    "examples",
    "_torch_function",
    "_reduction",
    "_arg_reduction",
    "_pooling",
    "_run",
    "_lstm",
    "_gru",
    "_rnn",
    "_spread",
)
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def places(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    """Nodes that can be changed, and how."""
    found: list[tuple[ast.AST, str]] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and node.name in SKIPPED:
            return
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            found.append((node, "operator"))
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            found.append((node, "comparison"))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            found.append((node, "number"))
        if isinstance(node, ast.If | ast.IfExp):
            found.append((node, "condition"))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found.append((node, "call"))
        for child in ast.iter_child_nodes(node):
            if not isinstance(node, ast.FunctionDef) or child is not node.args:
                visit(child)

    visit(tree)
    return found


def change(node: ast.AST, kind: str) -> None:
    """Change a node in place."""
    if kind == "operator" and isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif kind == "comparison" and isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif kind == "number" and isinstance(node, ast.Constant) and isinstance(node.value, int):
        node.value = node.value + 1
    elif kind == "condition" and isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif kind == "call" and isinstance(node, ast.Expr):
        node.value = ast.Constant(None)


def objection(folder: Path, chosen: str = "") -> str | None:
    """What the tests have against the copy of the project in `folder`: the end of their report, or None.

    `chosen` is pytest's expression for the tests to run; a copy that needs more processor time than any should is
    objected to as well.
    """
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", chosen, *TESTS]
    limited = f"resource.setrlimit(resource.RLIMIT_CPU, ({LIMIT_S}, {LIMIT_S}))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import resource, sys, pytest; {limited}; sys.exit(pytest.main(sys.argv[1:]))",
            *options,
        ],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    return done.stdout[-2000:] if done.returncode not in (0, NOTHING_CHOSEN) else None


def first_chosen(tree: ast.Module) -> str:
    """The tests most likely to notice a change in a file: those that carry the names of its classes."""
    return " or ".join(node.name for node in tree.body if isinstance(node, ast.ClassDef))


def survives(folder: Path, target: str, index: int) -> tuple[str, str | None]:
    """Run the tests on one mutant; returns what was changed, and what objected."""
    path = folder / "onnxprune" / target
    original = path.read_text()
    tree = ast.parse(original)
    first = first_chosen(tree)
    node, kind = places(tree)[index]
    before = ast.unparse(copy.deepcopy(node)).splitlines()[0]
    line = getattr(node, "lineno", 0)
    change(node, kind)
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    try:
        objected = objection(folder, first) or (objection(folder, f"not ({first})") if first else None)
    finally:
        path.write_text(original)
    return f"{target}:{index} line {line} {kind} {before[:90]}", objected


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutation testing of labels and operator handlers.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", metavar="FILE:NUMBER", help="one mutant, as the tool printed it")
    given = parser.parse_args()
    every = [(t, i) for t in TARGETS for i in range(len(places(ast.parse((ROOT / "onnxprune" / t).read_text()))))]
    order = np.random.default_rng(given.seed).permutation(len(every))[: given.count]
    chosen = [every[i] for i in order]
    if given.only:
        target, index = given.only.split(":")
        chosen = [(target, int(index))]

    def work(job: int) -> list[bool]:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("onnxprune", "tests", "docs"):
                shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", folder)
            unchanged = objection(Path(folder))
            if unchanged is not None:
                raise SystemExit(f"the tests object to the project as it is, so they tell nothing:\n{unchanged}")
            noticed = []
            for target, index in chosen[job :: given.jobs]:
                what, objected = survives(Path(folder), target, index)
                noticed.append(objected is not None)
                failed = [line for line in (objected or "").splitlines() if line.startswith(("FAILED", "ERROR"))]
                print(f"{what}: {' '.join(failed[:1])[:200] or objected or 'SURVIVED'}", flush=True)
            return noticed

    with ThreadPoolExecutor(given.jobs) as pool:
        results = [result for part in pool.map(work, range(given.jobs)) for result in part]
    print(f"{sum(results)} of {len(results)} mutants noticed ({len(every)} possible)")


if __name__ == "__main__":
    main()
