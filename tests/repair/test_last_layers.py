"""Layers that scores are read from are refitted by the scores' own divergence."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration.inputs import load_data
from onnxprune.calibration.runner import collect
from onnxprune.calibration.split import split_rows
from onnxprune.config import PreprocessConfig
from onnxprune.core.engine import RunOptions
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.divergence import divergence
from onnxprune.outputs.reading import read_meaning
from onnxprune.repair import repair
from onnxprune.repair.last_layers import ScoreRows, fit_scores, last_layers
from onnxprune.structure.coupling import analyse
from onnxprune.structure.removal import remove


def rows(kind, seed, count=400, width=5, classes=3):
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((count, width))
    logits = columns @ rng.standard_normal((width, classes)) + rng.standard_normal(classes)
    if kind == "probabilities":
        wanted = 1 / (1 + np.exp(-logits))
    else:
        powers = np.exp(logits - logits.max(1, keepdims=True))
        wanted = powers / powers.sum(1, keepdims=True)
    return ScoreRows(columns, np.zeros_like(logits), wanted, np.full(count, 1 / count), np.arange(count)), logits


@pytest.mark.parametrize("kind", ["probabilities", "classes"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scores_that_the_columns_explain_are_found(kind, seed):
    fit, logits = rows(kind, seed)
    weight, bias = fit_scores(kind, fit, fit, has_bias=True)
    found = fit.columns @ weight + bias
    if kind == "classes":  # a softmax does not feel what all classes have in common
        found, logits = (x - x.mean(1, keepdims=True) for x in (found, logits))
    assert np.abs(found - logits).mean() < 0.15 * np.abs(logits).mean()


def test_no_change_where_held_out_rows_do_not_get_better():
    fit, _ = rows("probabilities", 0, count=20)
    right, logits = rows("probabilities", 1)
    held_out = ScoreRows(right.columns, logits, right.wanted, right.weights, right.source)
    assert fit_scores("probabilities", fit, held_out, has_bias=True) is None


def test_classes_are_not_refitted_for_the_sake_of_a_few_held_out_rows():
    """One held-out row in forty, far off, gains more than all others lose together."""
    size = 8000
    wanted = np.tile([0.98, 0.02], (size, 1))
    wanted[::40] = [1e-6, 1 - 1e-6]
    logits = np.log([0.98, 0.02]) + np.zeros((size, 2))
    held_out = ScoreRows(np.ones((size, 1)), logits, wanted, np.full(size, 1 / size), np.arange(size))
    few = held_out.part(np.arange(40))
    assert fit_scores("classes", held_out, few, has_bias=True) is None
    assert fit_scores("classes", held_out, held_out, has_bias=True) is not None


NETWORK = """g (float[N,3,8,8] x) => (float[N,A,B] y) {{
    h = Conv (x, w1, b1)  r = Relu (h)  c = Conv (r, w2, b2)  s = {0} (c)  y = Reshape (s, flat) }}"""


def pruned(end, share=0.4):
    proto = example(
        NETWORK.format(end),
        {"w1": (12, 3, 1, 1), "b1": (12,), "w2": (4, 12, 1, 1), "b2": (4,)},
        {"flat": np.array([0, 4, -1])},
    )
    model = load(proto)
    # Nearly all positions are background, as a detector's.
    rare = {"w2": 3 * model.constants["w2"], "b2": model.constants["b2"] - np.array([9, 9, 9, 0], np.float32)}
    analysis = analyse(model.with_constants(rare))
    removed = analysis.none_removed()
    (group,) = analysis.groups
    removed[group.units[: int(share * len(group))]] = True
    return analysis, removed


@pytest.mark.parametrize("end", ["Sigmoid", "Softmax <axis = 1>"])
def test_scores_of_a_pruned_network_come_nearer_on_other_rows(end, monkeypatch):
    analysis, removed = pruned(end)
    meaning = read_meaning(analysis)
    assert [(part.kind, origin.layer.node) for part, origin in last_layers(meaning, analysis)] == [
        ("probabilities" if end == "Sigmoid" else "classes", analysis.layers[1].node)
    ]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3, 8, 8)).astype(np.float32)
    data, unseen = (load_data(part, analysis.model, PreprocessConfig()) for part in (x[:40], x[40:]))
    config = RunOptions(threads=1)

    def left():
        smaller = repair(analysis, remove(analysis, removed), removed, split_rows(data).last, config)
        outputs = [collect(model, unseen, meaning.outputs) for model in (analysis.model, smaller)]
        return divergence(*outputs, meaning)

    with_it = left()
    monkeypatch.setattr("onnxprune.repair.sequential.refit_scores", lambda meaning, analysis, *rest: analysis.model)
    assert with_it < 0.95 * left()


def test_a_layer_behind_another_function_is_left_alone():
    text = """g (float[N,6] x) => (float[N,3] y) {
        h = MatMul (x, w)  t = Tanh (h)  y = Sigmoid (t) }"""
    analysis = analyse(load(example(text, {"w": (6, 3)})))
    assert last_layers(read_meaning(analysis), analysis) == []


@pytest.mark.parametrize("kind", ["probabilities", "classes"])
def test_fewer_rows_than_columns_are_fitted_as_in_all_columns(kind):
    """Columns of zeros make no row longer; with more of them than rows the fit is in the rows' own directions."""
    fit, _ = rows(kind, 2, count=30, width=20)
    wide = replace(fit, columns=np.pad(fit.columns, ((0, 0), (0, 30))))
    weight, bias = fit_scores(kind, fit, fit, has_bias=True)
    weight_wide, bias_wide = fit_scores(kind, wide, wide, has_bias=True)
    np.testing.assert_allclose(weight_wide[:20], weight, atol=1e-3 * np.abs(weight).max())
    np.testing.assert_allclose(bias_wide, bias, atol=1e-3 * np.abs(bias).max())
    assert not weight_wide[20:].any()
