"""The single-operator models that ship with onnx: analysed without a fault, and every operator has a handler."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import version_converter
from oracle import analysed, random_removal

from onnxprune.ops import handlers
from onnxprune.structure.removal import remove

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
PATHS = sorted(
    path for kind in ("pytorch-converted", "pytorch-operator") for path in (DATA / kind).glob("*/model.onnx")
)


@pytest.mark.parametrize("path", PATHS, ids=[path.parent.name for path in PATHS])
def test_analysis_and_removal(path: Path) -> None:
    proto = version_converter.convert_version(onnx.load(path), 13)  # the files are of operator set 6
    a = analysed(proto)
    remove(a, random_removal(a, 0.5, np.random.default_rng(0)))
    assert not [item for item in a.not_pruned if item.limitation]
    assert {node.op_type for node in proto.graph.node} <= {*handlers(), "Constant"}
