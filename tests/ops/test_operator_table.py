"""The documented table of operators is the one that the command prints."""

import subprocess
import sys
from pathlib import Path


def test_the_documented_table_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune", "ops", "--markdown"], capture_output=True, text=True, check=True
    )
    documented = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    assert documented.endswith(done.stdout), "run: onnxprune ops --markdown, and put the table into docs/operators.md"
