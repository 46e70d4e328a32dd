"""Random inputs: of the sizes that the file and the user tell."""

import pytest

from onnxprune.graph.inputs import input_specs
from onnxprune.graph.load import load
from onnxprune.ops.examples import example
from onnxprune.runtime import feeds
from onnxprune.runtime.feeds import input_shapes


def test_sizes_that_are_told_are_not_inferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows were made of sizes that strict inference had found, which refused files that onnxruntime runs."""
    model = load(example("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu (x) }", full_check=False))
    specs = input_specs(model)
    monkeypatch.setattr(feeds, "gather_facts", None)
    assert input_shapes(model, specs, {"x": (2, 3, 48, 32)}) == {"x": (2, 3, 48, 32)}
    with pytest.raises(TypeError):  # where a size is open, it is asked for
        input_shapes(model, specs, {"x": (2, 3, None, 32)})
