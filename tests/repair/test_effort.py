"""How many positions a layer is fitted to."""

from hypothesis import given
from hypothesis import strategies as st

from onnxprune.repair.effort import FULL, QUICK, Effort

sizes = st.integers(1, 20000)


@given(st.sampled_from([FULL, QUICK]), st.integers(1, 64), sizes, sizes)
def test_positions_fit_into_the_memory(effort: Effort, groups: int, width: int, outputs: int) -> None:
    row = 4 * groups * (width + 2 * outputs)
    positions = effort.positions((groups, width, outputs))
    assert positions >= 1
    assert positions == 1 or positions * row <= 2 * effort.memory
    assert positions * row <= effort.memory or positions <= max(1, 8 * width)
    assert positions <= max(effort.rows, effort.rows_per_column * width)


@given(st.integers(1, 64), sizes, sizes)
def test_a_quick_repair_takes_no_more_positions(groups: int, width: int, outputs: int) -> None:
    matrix = groups, width, outputs
    assert QUICK.positions(matrix) <= FULL.positions(matrix)


def test_very_wide_layers_get_more_rows() -> None:
    """A layer of 8,192 columns had fewer rows than columns."""
    assert FULL.positions((1, 8192, 16)) * 4 * (8192 + 32) > 1.9 * FULL.memory
    assert FULL.positions((1, 1152, 320)) * 4 * (1152 + 640) <= FULL.memory
    assert FULL.positions((1, 16, 16)) == FULL.rows
