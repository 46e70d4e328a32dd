"""A cost kind is one row of a table: a new one is counted, limited, and told of."""

import json
import subprocess
import sys
from pathlib import Path

MODEL = Path(__file__).parents[2] / "models" / "lenet5_mnist.onnx"

_PRUNE = """
import json, sys
import numpy as np
from onnxprune.core import costs

def filters(model):
    return ((1, sizes[:1]) for constant, sizes in model.stored if len(sizes) == 4)

costs.COST_KINDS["filters"] = costs.CostKind("filters", "Filters", {"": 1}, "no unit", filters)
costs.COUNTED = (*costs.COUNTED, "filters")

import onnxprune
from onnxprune.config import PruneConfig
from onnxprune.core.targets import Target

rows = np.random.default_rng(0).random((40, 1, 28, 28), np.float32)
made = onnxprune.prune(sys.argv[1], rows, targets="filters=0.5", round_to=1, time=False, importance="magnitude")
print(json.dumps([dict(made.before), dict(made.after), str(Target.parse("filters=7")), repr(made)]))
"""


def test_a_new_cost_kind_is_one_row_of_the_table():
    done = subprocess.run([sys.executable, "-c", _PRUNE, MODEL], capture_output=True, text=True, check=True)
    before, after, target, told = json.loads(done.stdout)
    assert set(before) == {"macs", "params", "bytes", "filters"}
    assert 0.3 * before["filters"] <= after["filters"] <= 0.5 * before["filters"]
    assert target == "filters=7"
    assert "filters" in told
