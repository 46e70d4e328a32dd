"""Which rows do what: every row once, in fixed shares, and merged in a fixed order where rows are few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.split import RowRoles, split_rows

COUNTS = st.integers(1, 1500)
SEEDS = st.integers(0, 9)


def dataset(count: int) -> Dataset:
    return Dataset({"x": np.arange(count)[:, None]}, None, "rows", np.arange(count))


def numbers(data: Dataset) -> set[int]:
    found = data.rows.tolist()
    assert found == sorted({*found})  # in their order, none twice
    return {*found}


def distinct(split: RowRoles) -> list[set[int]]:
    """The rows of each role that has rows of its own."""
    sets = [numbers(data) for data in (split.fit, split.curves, split.last.choose, split.report)]
    return [one for number, one in enumerate(sets) if one not in sets[:number]]


@given(COUNTS, st.booleans(), SEEDS)
def test_every_row_has_one_role(count: int, reports: bool, seed: int) -> None:
    split = split_rows(dataset(count), reports=reports, seed=seed)
    sets = distinct(split)
    assert sum(map(len, sets)) == count
    assert set().union(*sets) == {*range(count)}
    assert numbers(split.data) == {*range(count)} - (numbers(split.report) if split.reported == "unused" else set())


@given(st.integers(320, 2000), SEEDS)
def test_shares_with_many_rows(count: int, seed: int) -> None:
    split = split_rows(dataset(count), seed=seed)
    shares = [len(one) / count for one in distinct(split)]
    assert shares == pytest.approx([0.6, 0.15, 0.15, 0.1], abs=3 / count)
    assert split.reported == "unused"
    others = split_rows(dataset(count), reports=False, seed=seed)
    assert [len(one) / count for one in distinct(others)[:3]] == pytest.approx([0.7, 0.15, 0.15], abs=3 / count)


@pytest.mark.parametrize(
    ("count", "shares", "reported"),
    [
        (4, [4], "fitted"),
        (5, [4, 1], "chosen"),
        (16, [13, 3], "chosen"),
        (28, [23, 5], "chosen"),
        (63, [51, 12], "chosen"),
        (64, [43, 9, 12], "chosen"),
        (150, [98, 22, 30], "chosen"),
        (319, [209, 47, 63], "chosen"),
        (320, [192, 48, 48, 32], "unused"),
        (1000, [600, 150, 150, 100], "unused"),
    ],
)
def test_sets_merge_in_a_fixed_order(count: int, shares: list[int], reported: str) -> None:
    """The rows that report with those that choose, these with those of the curves, and all of them at last."""
    split = split_rows(dataset(count))
    assert [len(one) for one in distinct(split)] == shares
    assert split.reported == reported
    choose = numbers(split.last.choose)
    assert (numbers(split.report) == choose) == (count < 320)
    assert (numbers(split.curves) == choose) == (count < 64)
    assert split.has_trials == (count >= 64)
    assert split.last.apart == (count >= 5)


@given(COUNTS, st.booleans(), SEEDS)
def test_the_last_repair_fits_three_quarters_and_chooses_on_others(count: int, reports: bool, seed: int) -> None:
    split = split_rows(dataset(count), reports=reports, seed=seed)
    fitted, choose = numbers(split.last.fit), numbers(split.last.choose)
    assert len(fitted) >= 0.74 * count
    assert not split.last.apart or not fitted & choose
    assert split.reported == "fitted" or not fitted & numbers(split.report)


@given(st.integers(64, 1500), st.booleans(), SEEDS, st.integers(64, 900))
def test_what_judges_a_trial_has_no_other_part_in_it(count: int, reports: bool, seed: int, most: int) -> None:
    whole = split_rows(dataset(count), reports=reports, seed=seed)
    for split in (whole, whole.fewer(most)):
        judges = []
        for again in (False, True):
            rows, judge = split.trial(again=again)
            assert not numbers(judge) & (numbers(rows.fit) | numbers(rows.choose))
            assert not numbers(rows.fit) & numbers(rows.choose)
            assert numbers(rows.choose) == numbers(split.curves)
            judges.append(numbers(judge))
        assert not judges[0] & judges[1]
        assert len(judges[0]) == len(judges[1])
        assert not (judges[0] | judges[1]) & numbers(split.curves)
        if split.reported == "unused":
            assert not (judges[0] | judges[1] | numbers(split.last.fit)) & numbers(split.report)


@given(st.integers(64, 1500), SEEDS, st.integers(10, 2000))
def test_fewer_rows_keep_their_roles(count: int, seed: int, most: int) -> None:
    split = split_rows(dataset(count), seed=seed)
    fewer = split.fewer(most)
    judges = len(split.trial()[1])
    assert len(fewer.data) <= max(most, 5) + judges
    assert len(fewer.fit) <= max(len(split.fit) * most // len(split.data), 2)
    assert len(fewer.trial()[1]) >= min(judges, len(fewer.fit) - 1)  # two passes a trial: they need not be cut
    if most >= len(split.data):
        assert fewer is split
    for mine, theirs in ((fewer.fit, split.fit), (fewer.curves, split.curves), (fewer.report, split.report)):
        assert len(mine)
        assert numbers(mine) <= numbers(theirs)


@given(st.integers(40, 600), st.integers(2, 12), SEEDS)
def test_sorted_rows_and_rows_in_turns_are_spread_over_all_sets(count: int, kinds: int, seed: int) -> None:
    """Every tenth row of ten classes in turns would be of one class alone."""
    split = split_rows(dataset(20 * kinds + count), seed=seed)
    total = len(split.rows)
    for order in (np.arange(total) % kinds, np.arange(total) * kinds // total):
        there = len({*order[split.fit.rows].tolist()})
        assert there == kinds
        if len(split.curves) >= 8 * kinds:
            assert len({*order[split.curves.rows].tolist()}) >= kinds - 1


def test_the_seed_draws_the_rows() -> None:
    first, again, other = (split_rows(dataset(200), seed=seed).roles for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
