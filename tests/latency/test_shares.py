"""Shares of the original's time: kernel times, corrected by whole models that were timed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.allocation.table import CostTable
from onnxprune.latency.shares import Shares

FULL = (16, 16, 16)
WIDTHS = {g: np.array([0, 4, 8, 12, 16]) for g in range(3)}
TABLE = CostTable(WIDTHS, 0.0, {g: 2.0 * widths + 4 for g, widths in WIDTHS.items()})
KEPT = st.tuples(*(st.sampled_from(WIDTHS[0].tolist()) for _ in FULL)).filter(lambda kept: kept != FULL)


def learned(*timed: tuple[tuple[int, ...], float]) -> Shares:
    shares = Shares(FULL, TABLE(FULL))
    for kept, share in timed:
        shares.learn(kept, TABLE(kept), share)
    return shares


@given(timed=st.dictionaries(KEPT, st.floats(0.05, 1.5), min_size=1, max_size=8))
def test_the_last_model_has_the_time_that_was_measured(timed: dict[tuple[int, ...], float]) -> None:
    for kept, share in timed.items():
        assert learned(*timed.items()).cost(TABLE, kept)(kept) == pytest.approx(share)


@given(timed=st.sets(KEPT, min_size=1, max_size=8), asked=KEPT)
def test_where_kernels_tell_all_nothing_is_corrected(timed: set[tuple[int, ...]], asked: tuple[int, ...]) -> None:
    shares = learned(*((kept, TABLE(kept) / TABLE(FULL)) for kept in timed))
    assert shares.cost(TABLE, next(iter(timed)))(asked) == pytest.approx(TABLE(asked) / TABLE(FULL))


def test_what_folds_away_with_the_first_unit_is_learned() -> None:
    """Shape arithmetic of an attention layer was folded once it had lost a head's channel; no kernel shows that."""
    hidden = {0: 0.2, 1: 0.0, 2: 0.05}

    def share(kept: tuple[int, ...]) -> float:
        return TABLE(kept) / TABLE(FULL) - sum(saved for g, saved in hidden.items() if kept[g] < FULL[g])

    timed = [(4, 4, 4), (12, 12, 12), (12, 16, 16), (16, 12, 16), (16, 16, 12)]
    cost = learned(*((kept, share(kept)) for kept in timed)).cost(TABLE, timed[0])
    for kept in ((8, 16, 16), (16, 8, 16), (8, 16, 4), (12, 8, 8)):
        assert cost(kept) == pytest.approx(share(kept), abs=0.03)
    untold = TABLE((8, 16, 16)) / TABLE(FULL)
    assert abs(untold - share((8, 16, 16))) > 0.15
