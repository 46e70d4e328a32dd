"""Mutation testing of labels, removal and operator handlers: change one thing and see whether the tests notice.

    python tools/mutate.py [--count 100] [--seed 0] [--jobs 2]

Works on copies of the project. A survivor is a change that no test of `TESTS` objects to: a missing test, or a change
without consequence.
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
TESTS = (
    *("tests/ops", "tests/graph/test_exporters.py", "tests/graph/test_check.py", "tests/graph/test_oracle.py"),
    "tests/lossless",
)
LIMIT_S = 300
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


def objection(folder: Path) -> str | None:
    """What the tests have against the copy of the project in `folder`: the end of their report, or None."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS],
            cwd=folder,
            env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)},
            capture_output=True,
            timeout=LIMIT_S,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT_S} s"
    return done.stdout[-2000:] if done.returncode else None


def survives(folder: Path, target: str, index: int) -> tuple[str, bool]:
    """Run the tests on one mutant; returns what was changed, and whether nothing objected."""
    path = folder / "onnxprune" / target
    original = path.read_text()
    tree = ast.parse(original)
    node, kind = places(tree)[index]
    before = ast.unparse(copy.deepcopy(node)).splitlines()[0]
    line = getattr(node, "lineno", 0)
    change(node, kind)
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    try:
        survived = objection(folder) is None
    finally:
        path.write_text(original)
    return f"{target}:{line} {kind} {before[:90]}", survived


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutation testing of labels and operator handlers.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    every = [(t, i) for t in TARGETS for i in range(len(places(ast.parse((ROOT / "onnxprune" / t).read_text()))))]
    order = np.random.default_rng(given.seed).permutation(len(every))[: given.count]
    chosen = [every[i] for i in order]

    def work(job: int) -> list[tuple[str, bool]]:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("onnxprune", "tests", "docs"):
                shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", folder)
            unchanged = objection(Path(folder))
            if unchanged is not None:
                raise SystemExit(f"the tests object to the project as it is, so they tell nothing:\n{unchanged}")
            results = []
            for target, index in chosen[job :: given.jobs]:
                results.append(survives(Path(folder), target, index))
                if results[-1][1]:
                    print(f"survived: {results[-1][0]}", flush=True)
            return results

    with ThreadPoolExecutor(given.jobs) as pool:
        results = [result for part in pool.map(work, range(given.jobs)) for result in part]
    killed = sum(not survived for _, survived in results)
    print(f"{killed} of {len(results)} mutants noticed ({len(every)} possible)")


if __name__ == "__main__":
    main()
