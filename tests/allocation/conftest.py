"""Problems of tests are small: without this none of them would reach the programs that large ones are solved by."""

import pytest

from onnxprune.allocation import exhaustive


@pytest.fixture(autouse=True)
def by_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a few choices are looked at one by one."""
    monkeypatch.setattr(exhaustive, "_MOST_CHOICES", 0)
