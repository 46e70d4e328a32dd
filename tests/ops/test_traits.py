"""What an operator is stands in its handler: no other module lists operator names."""

import ast
from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune.graph.nodes import qualified

ROOT = Path(onnxprune.__file__).parent
OPERATORS = {qualified(schema.name, schema.domain) for schema in onnx.defs.get_all_schemas()}

# Modules outside `ops` that name operators, which ones, and why they may.
ALLOWED = {
    "graph/model.py": ({"Constant"}, "Constant nodes are how the file stores constants"),
    "graph/nodes.py": ({"Constant"}, "Constant nodes are how the file stores constants"),
    "graph/subgraph.py": ({"Constant"}, "Constant nodes are how the file stores constants"),
    "graph/edit.py": ({"Constant", "Mul", "Add", "Identity"}, "stored values, and nodes that it writes"),
    "graph/external.py": ({"Constant"}, "Constant nodes are how the file stores constants"),
    "graph/inference.py": ({"Identity"}, "writes it in place of an operator that keeps its input's shape"),
    "graph/negative.py": ({"Slice"}, "where onnx's own inference ends the process"),
    "latency/fused_kernels.py": ({"Conv", "Relu", "MatMul"}, "writes stubs around what is timed"),
    "outputs/unrounded.py": ({"Identity"}, "writes it in place of nodes that do nothing but round"),
    "runtime/providers.py": ({"Relu"}, "writes the one node that shows whether a provider starts"),
    "structure/gradient.py": ({"Add", "Mul", "ReduceSum"}, "writes the nodes of gradients"),
}


def named(path: Path) -> set[str]:
    """Operators that a module's code names in text; words of its documentation do not count."""
    tree = ast.parse(path.read_text())
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OPERATORS
    }


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if ROOT / "ops" not in path.parents)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_outside_ops_names_operators(module: str) -> None:
    allowed, _ = ALLOWED.get(module, (set(), ""))
    found = named(ROOT / module)
    assert found <= allowed, "ask the handler (ops/base.py) what the operator is"


def test_the_exceptions_are_needed() -> None:
    for module, (allowed, _) in ALLOWED.items():
        assert named(ROOT / module) >= allowed, module


def test_a_list_of_operators_is_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text('"""Relu and Conv."""\n\n_TABLE = frozenset({"Relu", "Sigmoid"})\n')
    assert named(tmp_path / "module.py") == {"Relu", "Sigmoid"}
