"""Text from files as people see it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.text import NAME, visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1", "conv1"),
        ("layer[0].net/Größe 日本", "layer[0].net/Größe 日本"),
        ("\x1b[2Jfake\x07", "\\x1b[2Jfake\\x07"),
        ("a\nb\r\tc\x00", "a\\nb\\r\\tc\\x00"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("\u202efdp\u2066", "\\u202efdp\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_middle_of_long_text_is_left_out() -> None:
    text = "a" * 5_000_000 + "b" * 5_000_000
    assert visible(text) == "a" * 100 + "..." + "b" * 100 + " (10000000 characters)"
    assert visible(text[: NAME // 2] * 2) == text[: NAME // 2] * 2
    assert visible("\x1b" * NAME) == "\\x1b" * NAME


@given(st.text())
def test_what_is_shown_can_be_printed_anywhere(text: str) -> None:
    shown = visible(text, len(text))
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert visible(shown, len(shown)) == shown
    assert all(character.isprintable() or ord(character) > 0x9F for character in shown)
    assert visible_lines(f"{text}\n{text}") == "\n".join([visible_lines(text)] * 2)
