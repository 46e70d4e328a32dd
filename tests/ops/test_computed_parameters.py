"""Parameters that are known only while the model runs: the channels that they work on stay, for a reason."""

import pytest
from oracle import analysed

from onnxprune.ops.examples import example

WEIGHTS = {"w1": (8, 3, 3, 3), "w2": (6, 8, 3, 3), "w3": (4, 6, 1, 1)}
UNKNOWN = "the shape of 't' is not known before the model runs"
CASES = {
    "t = Pad (k, z)": ("int64[8]", UNKNOWN),
    "t = Resize (k, , z)": ("float[4]", UNKNOWN),
    "t = Tile (k, z)": ("int64[4]", UNKNOWN),
    "t = Expand (k, z)": ("int64[4]", UNKNOWN),
    "t = Reshape (k, z)": ("int64[4]", UNKNOWN),
    "t = ReduceMax (k, z)": ("int64[1]", UNKNOWN),
    "t = CumSum (k, z)": ("int32", "the axis of CumSum is computed"),
    "t = PRelu (k, z)": ("float[6,1,1]", "the slope of PRelu is computed"),
    "q = QuantizeLinear (k, z) t = DequantizeLinear (q, z)": ("float[6]", "parameter 'z' is computed"),
    "i = InstanceNormalization (k, z, z) t = Relu (i)": ("float[6]", "parameter 'z' is computed"),
    "s, i = MaxPool <kernel_shape = [1, 1]> (k) c = Cast <to = 1> (i) t = Add (s, c)": (
        "float[1]",
        "indices of MaxPool count channels",
    ),
    "n = Size (k) c = Cast <to = 1> (n) t = Div (k, c)": ("float[1]", "Size counts these channels"),
}


@pytest.mark.parametrize("nodes", CASES)
def test_channels_before_a_computed_parameter_stay(nodes: str) -> None:
    given, reason = CASES[nodes]
    proto = example(
        f"""g (float[N,3,8,8] x, {given} z) => (float[N,4,A,B] y) {{
        h = Conv (x, w1)
        k = Conv (h, w2)
        {nodes}
        y = Conv (t, w3) }}""",
        WEIGHTS,
        opset=18,
        full_check=False,
    )
    a = analysed(proto)
    assert [(group.name, len(group)) for group in a.groups] == [("h", 8)]
    assert any(reason in entry.reason for entry in a.not_pruned), [entry.reason for entry in a.not_pruned]
