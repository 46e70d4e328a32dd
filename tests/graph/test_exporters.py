"""Small models as the usual exporters write them (`tools/make_test_models.py`)."""

from pathlib import Path

import numpy as np
import pytest
from oracle import analysed, check_removal, random_removal

DATA = Path(__file__).parents[1] / "data"
# Prunable units: hidden layers of 12 and 4 and two heads, for torch; kernels and branches for the others.
PRUNABLE = {"torchscript": 18, "dynamo": 18, "channels_last": 14, "constant_weights": 20}


@pytest.mark.parametrize("name", PRUNABLE)
def test_pruned_equals_masked(name: str) -> None:
    a = analysed(DATA / f"{name}.onnx")
    assert a.prunable == PRUNABLE[name]
    for seed in range(3):
        check_removal(a, random_removal(a, 0.2 + 0.3 * seed, np.random.default_rng(seed)), seed, batch=3)


@pytest.mark.parametrize("name", ["torchscript", "dynamo"])
def test_both_exporters_give_the_same_space(name: str) -> None:
    analysis = analysed(DATA / f"{name}.onnx")
    assert sorted(len(group) for group in analysis.groups) == [2, 4, 12]
    reasons = {item.reason for item in analysis.not_pruned}
    assert reasons == {"LayerNormalization normalises across these channels", "it is an output of the model"}
