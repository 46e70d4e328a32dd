"""Every handler's examples through a whole run on random rows: scores, program, trials, repair and the written file.

Removal alone does not see what scores and repair assume of weights, batches and steps.
"""

import onnx
import onnxruntime
import pytest

import onnxprune
from onnxprune.core.errors import BudgetError
from onnxprune.testing.contract import followed

EXAMPLES = [
    pytest.param(example, id=f"{type(handler).__name__}-{number}")
    for handler in followed()
    for number, example in enumerate(handler.examples())
]
ROWS = 70  # enough for trials


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_whole_run_meets_its_budget(example: onnx.ModelProto) -> None:
    try:
        session = onnxruntime.InferenceSession(example.SerializeToString())
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        pytest.skip(f"onnxruntime {onnxruntime.__version__}: {str(error)[:80]}")
    names = [value.name for value in session.get_outputs()]
    try:
        result = onnxprune.prune(
            example, "random", targets="params=0.8", images=ROWS, threads=1, workers=1, time=False, round_to=1
        )
    except BudgetError:  # a few examples cannot lose as much
        return
    assert result.after.params <= 0.8 * result.before.params
    smaller = onnxruntime.InferenceSession(result.proto.SerializeToString())
    assert [value.name for value in smaller.get_outputs()] == names
