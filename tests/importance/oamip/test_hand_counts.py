"""Scores of the paper's program on networks so small that its optimum is known in closed form.

Image `i` turns on unit `i` alone, which raises the score of the image's class by `g_i` above that of the other class.
Where a layer's scores `s` make that gap `g_i s_i`, the program minimises

    lambda / n * sum_i log(1 + exp(-g_i s_i)) + sum_i (s_i - 2) / n,

whose derivative is zero at `s_i = ln(lambda g_i - 1) / g_i`, within 0 and 1.
"""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from test_scorer import context, report

from onnxprune.config import OamipConfig
from onnxprune.core.scores import Scores
from onnxprune.importance.oamip.scorer import score
from onnxprune.ops.examples import example

LAMBDA = 5.0
ALL = OamipConfig(images="all", lambda_=LAMBDA)
GAPS = np.array([8.0, 3.0, 0.1, 4.0, 2.0])  # the third is not worth its place at all, the last one is wholly
CLASSES = np.array([0, 1, 0, 1, 0])


def network(gaps: np.ndarray, layers: int) -> onnx.ModelProto:
    """Layers of as many units as there are images, each of which reads the one before it alone."""
    size = len(gaps)
    steps = [f"a{i} = Gemm ({f'h{i - 1}' if i else 'x'}, w{i}) h{i} = Relu (a{i})" for i in range(layers)]
    text = f"g (float[N,{size}] x) => (float[N,2] y) {{ {' '.join(steps)} y = Gemm (h{layers - 1}, last) }}"
    last = np.zeros((size, 2), np.float32)
    last[np.arange(size), CLASSES[:size]] = gaps
    return example(text, constants={f"w{i}": np.eye(size, dtype=np.float32) for i in range(layers)} | {"last": last})


def scored(gaps: np.ndarray, layers: int, config: OamipConfig) -> Scores:
    return score(context(network(gaps, layers), np.eye(len(gaps), dtype=np.float32), CLASSES[: len(gaps)], config))


def best(gaps: np.ndarray, weight: float) -> np.ndarray:
    """The share of each gap that is worth its sparsity, where the loss weighs so much against it."""
    return np.clip(np.log(np.maximum(weight * gaps - 1, 1)) / gaps, 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"form": "joint"},
        {"form": "affine"},
        {"order": "last-first"},
        {"bounds": "valid"},
        {"bounds": "valid", "gates": "integer"},
        {"linear": "raw"},
        {"decoupled": True},
    ],
    ids=str,
)
def test_one_layer_by_hand(change: dict) -> None:
    found = scored(GAPS, 1, replace(ALL, **change))
    (group,) = found.groups
    expected = best(GAPS, LAMBDA)
    assert expected.tolist()[2:] == [0, pytest.approx(np.log(19) / 4), 1]
    np.testing.assert_allclose(group.scores, expected, atol=1e-3)
    loss = LAMBDA * np.log1p(np.exp(-GAPS * expected)).mean()
    assert report(found)["loss_term"] == pytest.approx(loss, rel=1e-3)
    assert report(found)["sparsity_term"] == pytest.approx(expected.mean() - 2, abs=1e-3)
    assert report(found)["objective"] == pytest.approx(loss + expected.mean() - 2, rel=1e-4)


@pytest.mark.parametrize("form", ["joint", "affine"])
def test_two_layers_by_hand(form: str) -> None:
    """Of two layers the larger mean counts, so both have the same; gaps are `g (s + s' - 1)`, which costs half.

    Rows of the affine form held units that are exactly zero on an image at 1.
    """
    gaps = GAPS[[0, 3]]
    first, second = (group.scores for group in scored(gaps, 2, replace(ALL, form=form)).groups)
    np.testing.assert_allclose(first + second - 1, best(gaps, 2 * LAMBDA), atol=1e-3)
    assert first.mean() == pytest.approx(second.mean(), abs=1e-3)


def test_the_last_layer_first_by_hand() -> None:
    """The last layer is cut as if it were alone, and leaves nothing to cut in the first one.

    Units that read exactly zero on an image were held at 1.
    """
    found = {group.group: group.scores for group in scored(GAPS, 2, replace(ALL, order="last-first")).groups}
    np.testing.assert_allclose(found["a1"], best(GAPS, LAMBDA), atol=1e-3)
    np.testing.assert_allclose(found["a0"][[0, 1, 3, 4]], 1, atol=1e-3)
