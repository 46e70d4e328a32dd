"""Loops that collect their steps in a list: scans and recurrences as they are written by hand."""

import numpy as np
import onnx

import onnxprune
from onnxprune.ops.examples import example
from onnxprune.outputs.reading import read_meaning


def scan() -> onnx.ModelProto:
    text = """g (float[N,7,6] x) => (float[N,5] scores) {
        h = MatMul (x, w1)
        r = Relu (h)
        z = MatMul (r, w2)
        none = SequenceEmpty <dtype = 1> ()
        first = Gather <axis = 1> (z, zero)
        start = Mul (first, nothing)
        last, all = Loop (steps, go, start, none) <body = b
            (int64 at, bool on, float[N,8] state, seq(float[N,8]) list) =>
            (bool on_out, float[N,8] new, seq(float[N,8]) longer) {
                step = Gather <axis = 1> (z, at)
                less = Mul (state, decay)
                new = Add (less, step)
                longer = SequenceInsert (list, new)
                on_out = Identity (on) }>
        stacked = ConcatFromSequence <axis = 1, new_axis = 1> (all)
        end = Gather <axis = 1> (stacked, minus)
        scores = MatMul (end, w3) }"""
    numbers = {"nothing": np.array(0, np.float32), "decay": np.array(0.9, np.float32)}
    places = {"zero": np.array(0), "minus": np.array(-1), "steps": np.array(7), "go": np.array(True)}
    return example(text, {"w1": (6, 16), "w2": (16, 8), "w3": (8, 5)}, numbers | places, full_check=False)


def test_layers_before_a_list_are_pruned_on_data() -> None:
    """It ended with "Loop reads ..., no tensor", or, with labels of 0 and 1, in an IndexError."""
    rows = np.random.default_rng(0).standard_normal((60, 7, 6)).astype(np.float32)
    made = onnxprune.prune(scan(), (rows, np.arange(60) % 2), targets="params=0.85", time=False, threads=1)
    assert made.after.params <= 0.85 * made.before.params
    assert made.metrics["relative_error"].after < 0.3
    assert {"top1", "agreement"} <= {*made.metrics}


def test_what_comes_out_of_a_list_has_a_shape() -> None:
    analysis = onnxprune.analyze(scan())
    assert analysis.facts.shapes["stacked"] == (1, 7, 8)
    assert [(part.kind, part.width) for part in read_meaning(analysis).parts] == [("classes", 5)]
