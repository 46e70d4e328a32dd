"""Repair behind branches that went as a whole."""

import numpy as np
from oracle import analysed
from residual import NETWORK, WEIGHTS

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import collect
from onnxprune.calibration.split import split_rows
from onnxprune.core.engine import ONE_CORE, RunOptions
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.repair import repair
from onnxprune.structure.removal import remove


def test_a_constant_that_stands_for_a_branch_gets_the_branch_s_mean() -> None:
    text = NETWORK.replace("(r, w2)", "(r, w2, b2)")
    a = analysed(example(text, WEIGHTS | {"b2": (8,)}))
    (group,) = (group for group in a.groups if group.name == "h")
    removed = a.none_removed()
    removed[group.units] = True
    pruned = remove(a, removed)
    assert "k" in pruned.constants
    rows = np.random.default_rng(0).standard_normal((80, 3, 8, 8)).astype(np.float32)
    data = load_data({"x": rows}, load(a.model))
    repaired = repair(a, pruned, removed, split_rows(data).last, RunOptions(threads=1))
    wanted = collect(a.model, data, ["k"], engine=ONE_CORE)["k"].mean(axis=(0, 2, 3))
    assert (
        np.abs(repaired.constants["k"].reshape(-1) - wanted).max()
        < 0.2 * np.abs(wanted - a.model.constants["b2"]).max()
    )
    outputs = [collect(model, data, ["y"], engine=ONE_CORE)["y"] for model in (a.model, pruned, repaired)]
    before, after = (np.square(each - outputs[0]).mean() for each in outputs[1:])
    assert after < before / 2
