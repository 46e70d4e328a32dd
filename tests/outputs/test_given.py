"""What the user says of outputs, and what is said of outputs that count for little."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.config import OutputConfig
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.outputs.given import barely_counting
from onnxprune.outputs.meaning import Meaning
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.coupling import analyse

STATES = ("present.0.key", "present.0.value", "present.1.key")


def decoder(scores: str = "logits") -> onnx.ModelProto:
    """A language model whose last weights are an embedding's, and that puts out states beside the scores."""
    states = " ".join(f"s{at} = MatMul (h, v{at})" for at in range(len(STATES)))
    told = ", ".join(f"float[N,7,5] s{at}" for at in range(len(STATES)))
    text = f"""g (float[N,7,6] x) => (float[N,7,40] scores, {told}) {{
        a = MatMul (x, u)  h = Relu (a)  scores = MatMul (h, w)  {states} }}"""
    rng = np.random.default_rng(0)
    shapes = {"u": (6, 12)} | {f"v{at}": (12, 5) for at in range(len(STATES))}
    proto = example(text, shapes, {"w": rng.normal(0.5, 1, (12, 40)).astype(np.float32)})
    names = {"scores": scores} | {f"s{at}": name for at, name in enumerate(STATES)}
    for value in proto.graph.output:
        value.name = names[value.name]
    for node in proto.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    return proto


def read(proto: onnx.ModelProto, config: OutputConfig | None = None) -> Meaning:
    return read_meaning(analyse(load(proto)), config)


def test_scores_of_a_language_model_are_told_by_their_name() -> None:
    """Behind weights that are an embedding's too they were quantities: 87 % of the next tokens stayed, of 89 %."""
    kinds = {part.output: (part.kind, part.width, part.positions) for part in read(decoder()).parts}
    assert kinds["logits"] == ("classes", 40, (7,))
    assert {kinds[name][0] for name in STATES} == {"quantities"}
    assert {part.kind for part in read(decoder("scores")).parts} == {"quantities"}


def test_what_the_user_says_goes_before_the_name() -> None:
    found = read(decoder(), OutputConfig(kinds=("logits=quantities",)))
    assert {part.kind for part in found.parts} == {"quantities"}


@pytest.mark.parametrize("pattern", ["present*", "re:^present", "present.?.*"])
def test_patterns_stand_for_many_outputs(pattern: str) -> None:
    found = read(decoder(), OutputConfig(kinds=(f"{pattern}=ignored",)))
    assert found.outputs == ("logits",)
    weighed = read(decoder(), OutputConfig(weights=(f"{pattern}=0",)))
    assert dict(zip(weighed.outputs, weighed.weights, strict=True))["logits"] == 1


def test_an_output_of_another_size_in_every_run_is_told() -> None:
    """It ended with "internal error: ValueError: all the input array dimensions except ... must match"."""
    found = read(decoder())
    runs = [{name: np.zeros((1, length, 4)) for name in found.outputs} for length in (425, 282)]
    with pytest.raises(onnxprune.InputError, match=r"\[1, 425, 4\] and \[1, 282, 4\].*--output logits=ignored"):
        found.joined(runs)


def test_the_last_of_several_options_counts() -> None:
    found = read(decoder(), OutputConfig(kinds=("present*=ignored", "present.0.key=quantities")))
    assert found.outputs == ("logits", "present.0.key")


def test_a_pattern_without_a_match_is_an_error() -> None:
    with pytest.raises(onnxprune.InputError, match=r"has no output 'past\*'; it has logits, present.0.key"):
        read(decoder(), OutputConfig(kinds=("past*=ignored",)))


def test_scores_among_many_states_are_told() -> None:
    (told,) = barely_counting(read(decoder()), OutputConfig())
    assert told.startswith("'logits' counts for one of 4 outputs")
    assert "--output-weight logits=3" in told
    for said in (OutputConfig(weights=("logits=3",)), OutputConfig(kinds=("present*=ignored",))):
        assert barely_counting(read(decoder(), said), said) == ()
    rows = {"x": np.random.default_rng(0).standard_normal((40, 7, 6)).astype(np.float32)}
    made = onnxprune.prune(decoder(), rows, targets="macs=0.6", importance="magnitude", repair=False, time=False)
    assert any(note.startswith("'logits' counts for one of 4 outputs") for note in made.notes)
