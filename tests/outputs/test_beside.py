"""Coordinates and scores that stand beside each other, both bounded by the model."""

import numpy as np
import pytest

from onnxprune.config import OutputConfig
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.meaning import Meaning
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse

PIXELS = np.array(320, np.float32)


def meaning(text: str, shapes: dict[str, tuple[int, ...]], said: OutputConfig | None = None, **constants) -> Meaning:
    return read_meaning(analyse(load(example(text, shapes, constants))), said)


def kinds(found: Meaning) -> dict[str, list[str]]:
    return {
        name: [part.kind for part in found.parts if part.output == name] for name in {p.output for p in found.parts}
    }


@pytest.mark.parametrize("scores", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_sigmoid_of_pixels_beside_scores_says_where_things_are(scores: str, width: int) -> None:
    """Boxes of 0 to 16 pixels were independent probabilities: "21 points less same most probable entry"."""
    text = f"""g (float[N,9,5] x) => (float[N,9,{width}] boxes, float[N,9,6] scores) {{
        b = MatMul (x, v) s = Sigmoid (b) boxes = Mul (s, pixels) c = MatMul (x, w) scores = {scores} (c) }}"""
    found = meaning(text, {"v": (5, width), "w": (5, 6)}, pixels=PIXELS)
    assert [part.kind for part in found.parts] == ["quantities", {"Softmax": "classes"}.get(scores, "probabilities")]
    assert found.parts[0].confidence == (1,)
    assert not found.parts[0].is_scaled
    values = np.full((1, 9, width), 320.0)
    assert (found.parts[0].values(values) == 320).all()


def test_points_with_their_confidence_in_one_output() -> None:
    text = """g (float[N,9,5] x) => (float[N,9,3] y) {
        a = MatMul (x, v) p = Sigmoid (a) q = Mul (p, pixels) b = MatMul (x, w) c = Sigmoid (b)
        y = Concat <axis = 2> (q, c) }"""
    found = meaning(text, {"v": (5, 2), "w": (5, 1)}, pixels=PIXELS)
    assert [(part.kind, part.columns, part.confidence) for part in found.parts] == [
        ("quantities", (0, 1), (1,)),
        ("probabilities", (2,), ()),
    ]


@pytest.mark.parametrize(("classes", "kind"), [("w", "classes"), ("u", "probabilities")])
def test_boxes_between_0_and_1_beside_logits(classes: str, kind: str) -> None:
    """Transformers that detect: the boxes were scores, and the logits of classes quantities."""
    text = f"""g (float[N,9,5] x) => (float[N,9,7] logits, float[N,9,4] boxes) {{
        logits = MatMul (x, {classes}) b = MatMul (x, v) boxes = Sigmoid (b) }}"""
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    found = meaning(text, {"v": (5, 4)}, w=weight - weight.mean(1, keepdims=True), u=weight + 1)
    assert kinds(found) == {"logits": [kind], "boxes": ["quantities"]}
    (boxes,) = (part for part in found.parts if part.output == "boxes")
    assert boxes.confidence == (0,)
    said = OutputConfig(kinds=("boxes=probabilities",))
    told = meaning(text, {"v": (5, 4)}, said, w=weight - weight.mean(1, keepdims=True), u=weight + 1)
    assert kinds(told)["boxes"] == ["probabilities"], "what the user says stands"


@pytest.mark.parametrize("scale", ["scores = Sigmoid (c)", "s = Sigmoid (c) scores = Mul (s, pixels)"])
def test_scores_of_four_classes_stay_scores(scale: str) -> None:
    text = f"""g (float[N,9,5] x) => (float[N,9,4] boxes, float[N,9,4] scores) {{
        boxes = MatMul (x, v) c = MatMul (x, v) {scale} }}"""
    assert kinds(meaning(text, {"v": (5, 4)}, pixels=PIXELS)) == {"boxes": ["quantities"], "scores": ["probabilities"]}


def test_maps_of_several_outputs_are_not_matched() -> None:
    text = """g (float[N,5,8,8] x) => (float[N,4,8,8] a, float[N,6,8,8] b) {
        h = Conv (x, v) a = Sigmoid (h) k = Conv (x, w) b = Softmax <axis = 1> (k) }"""
    assert kinds(meaning(text, {"v": (4, 5, 1, 1), "w": (6, 5, 1, 1)})) == {"a": ["probabilities"], "b": ["classes"]}


def test_boxes_beside_as_many_logits_that_are_named_so() -> None:
    """A DETR of three classes and none: logits were boxes, and 317 of 320 queries "detections", all found again."""
    text = """g (float[N,9,5] x) => (float[N,9,4] logits, float[N,9,4] boxes) {
        logits = MatMul (x, w) b = MatMul (x, v) boxes = Sigmoid (b) }"""
    found = meaning(text, {"v": (5, 4), "w": (5, 4)})
    by_name = {part.output: part for part in found.parts}
    assert by_name["logits"].kind in ("classes", "probabilities")
    assert by_name["boxes"].kind == "quantities"
    assert by_name["boxes"].confidence == (0,)


def test_boxes_with_an_axis_of_size_1_between() -> None:
    """YOLOv4 in PyTorch writes boxes as `(n, A, 1, 4)`: they were single columns that no score weighed."""
    text = """g (float[N,9,5] x) => (float[N,9,1,4] boxes, float[N,9,3] confs) {
        b = MatMul (x, v) boxes = Unsqueeze (b, two) c = MatMul (x, w) confs = Sigmoid (c) }"""
    found = meaning(text, {"v": (5, 4), "w": (5, 3)}, two=np.array([2]))
    boxes = next(part for part in found.parts if part.output == "boxes")
    assert (boxes.width, boxes.count, boxes.confidence) == (4, 9, (1,))
