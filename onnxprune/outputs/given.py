"""Reads the options that describe outputs: `--output NAME=KIND` and `--output-weight NAME=WEIGHT`.

A name may be a pattern, as everywhere (`core.patterns`); of several options for an output the last one counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import TensorProto

from onnxprune.config import OutputConfig
from onnxprune.core.errors import InputError, ModelError
from onnxprune.core.patterns import matching
from onnxprune.outputs.meaning import KINDS, Kind, Meaning
from onnxprune.structure.analysis import Analysis

IGNORED: Any = "ignored"
_MANY = 3  # outputs beside the scores
_NOT_NUMBERS = (TensorProto.UNDEFINED, TensorProto.STRING)


def kinds_said(config: OutputConfig, analysis: Analysis) -> dict[str, Kind]:
    """The kind of each output that the user named (`IGNORED` for outputs to leave out).

    Raises:
        InputError: an output or a kind that does not exist.
    """
    kinds: dict[str, Any] = {kind: kind for kind in (*KINDS, IGNORED) if kind != "labels"}
    by_output = {}
    for name, text in _by_output(config.kinds, "--output", analysis).items():
        if text not in kinds:
            raise InputError(f"--output {name}={text}: unknown kind; use one of {', '.join(kinds)}")
        by_output[name] = kinds[text]
    return by_output


def weights_said(config: OutputConfig, analysis: Analysis, compared: Sequence[str]) -> dict[str, float]:
    """The weight of each compared output, normalised to a sum of 1; outputs without an option count 1.

    Raises:
        InputError: an output that does not exist, or no positive weight.
    """
    weights = dict.fromkeys(compared, 1.0)
    for name, text in _by_output(config.weights, "--output-weight", analysis).items():
        try:
            weight = float(text)
        except ValueError:
            raise InputError(f"--output-weight {name}={text}: {text!r} is not a number") from None
        if not 0 <= weight < float("inf"):
            raise InputError(f"--output-weight {name}={text}: a weight is 0 or more")
        if name in weights:
            weights[name] = weight
    total = sum(weights.values())
    if not total:
        raise InputError("--output-weight: at least one output must have a weight above 0")
    return {name: weight / total for name, weight in weights.items()}


def check_said(config: OutputConfig, analysis: Analysis) -> None:
    """Check what the user says of outputs, before any work is done.

    Raises:
        InputError: an output or a kind that does not exist, or no positive weight.
        ModelError: the model puts out nothing that is a number.
    """
    if all(value.type.tensor_type.elem_type in _NOT_NUMBERS for value in analysis.model.proto.graph.output):
        raise ModelError(
            f"{analysis.name}: no output holds numbers that a result could be judged by; export it with some "
            '(a classifier of scikit-learn with zipmap=False: options={"zipmap": False} of skl2onnx)'
        )
    kinds_said(config, analysis)
    weights_said(config, analysis, [value.name for value in analysis.model.proto.graph.output])


def _by_output(given: Sequence[str], flag: str, analysis: Analysis) -> Mapping[str, str]:
    known = {value.name for value in analysis.model.proto.graph.output}
    by_output: dict[str, str] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise InputError(f"{flag} {text!r} is not of the form NAME=VALUE; the name of the file to write goes to -o")
        named = matching(name, known, flag)
        if not named:
            raise InputError(f"{flag}: {analysis.name} has no output {name!r}; it has {', '.join(sorted(known))}")
        by_output |= dict.fromkeys(sorted(named), value)
    return by_output


def named_in(given: Sequence[str], flag: str, analysis: Analysis) -> tuple[str, ...]:
    """The outputs that options name, by their names or by patterns."""
    return tuple(_by_output(given, flag, analysis))


def barely_counting(meaning: Meaning, config: OutputConfig) -> tuple[str, ...]:
    """A note where scores stand among so many other outputs that, all counting alike, they count for little.

    So with a decoder that puts out the keys and values of its layers beside the scores of the next token.
    """
    if config.weights:
        return ()
    scores = {part.output for part in meaning.parts if part.kind in ("classes", "probabilities")}
    others = sorted({*meaning.outputs} - scores)
    if len(scores) != 1 or len(others) < _MANY:
        return ()
    (name,) = scores
    return (
        f"{name!r} counts for one of {len(others) + 1} outputs, as each of the others ({others[0]!r}, ...) does; "
        f"--output-weight {name}={len(others)} lets it count for half, --output 'NAME*={IGNORED}' leaves others out",
    )
