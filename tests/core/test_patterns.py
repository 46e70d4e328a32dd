"""One meaning of patterns: a name, `re:`, or a shell pattern; and what is said where nothing matches."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.errors import InputError
from onnxprune.core.patterns import hint, matching

NAMES = ("/layer1/conv1/Conv", "/layer1/conv2/Conv", "/layer10/Conv", "net[0].conv", "net0.conv", "fc")


def found(pattern: str) -> set[str]:
    return set(matching(pattern, NAMES, "--keep"))


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("fc", {"fc"}),
        ("net[0].conv", {"net[0].conv"}),
        ("/layer1/*", {"/layer1/conv1/Conv", "/layer1/conv2/Conv"}),
        ("/layer1*", {"/layer1/conv1/Conv", "/layer1/conv2/Conv", "/layer10/Conv"}),
        ("*Conv?", set()),
        ("/layer1/conv[2]/*", {"/layer1/conv2/Conv"}),
        ("net[0]*", {"net[0].conv"}),
        ("net[0-9].conv", {"net0.conv"}),
        ("re:conv[12]", {"/layer1/conv1/Conv", "/layer1/conv2/Conv"}),
        ("re:^net", {"net[0].conv", "net0.conv"}),
        ("layer1", set()),
        ("/layer1/.*", set()),
        ("FC", set()),
    ],
)
def test_the_first_meaning_that_fits(pattern: str, matched: set[str]) -> None:
    assert found(pattern) == matched


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_every_name_matches_itself_alone(names: list[str]) -> None:
    for name in names:
        assert matching(name, names, "--keep") == {name}


@given(st.text("ab/.", min_size=1), st.lists(st.text("ab/.", min_size=1), max_size=5))
def test_a_star_is_any_end_of_a_name(start: str, names: list[str]) -> None:
    assert matching(f"{start}*", names, "--keep") == {name for name in names if name.startswith(start)}


@pytest.mark.parametrize("pattern", ["/layer1/.*", "^fc$", "fc|net", r"conv\d", "(fc)"])
def test_an_old_expression_is_told_how_it_is_written_now(pattern: str) -> None:
    assert repr(f"re:{pattern}") in hint(pattern, NAMES)


def test_a_part_of_a_name_is_told_how_it_is_written_now() -> None:
    assert hint("layer1", NAMES).endswith("3 of the names have it inside: write '*layer1*' to match them")
    assert found("*layer1*") == {name for name in NAMES if re.search("layer1", name)}


def test_a_misspelt_name_is_told_what_is_like_it() -> None:
    assert "did you mean '/layer10/Conv'" in hint("/layer10/Cnov", NAMES)


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(InputError, match=r"--keep 're:\(': '\(' is no regular expression"):
        found("re:(")
