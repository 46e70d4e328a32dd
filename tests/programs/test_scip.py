"""The driver of SCIP."""

import os
import signal

import numpy as np
import pyscipopt
import pytest
from scipy.sparse import csr_array

from onnxprune.programs.linear import LinearProgram
from onnxprune.programs.scip import solve

MADE: list[pyscipopt.Model] = []


class Interrupted(pyscipopt.Model):
    """Somebody presses Ctrl-C at the first solution."""

    def optimizeNogil(self) -> None:  # noqa: N802 (the library's name)
        MADE.append(self)

        class Press(pyscipopt.Eventhdlr):
            def eventinit(self) -> None:
                self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

            def eventexec(self, event: object) -> None:
                os.kill(os.getpid(), signal.SIGINT)

        self.includeEventhdlr(Press(), "press", "presses Ctrl-C")
        super().optimizeNogil()


def knapsack(rows: int = 3, items: int = 40) -> LinearProgram:
    rng = np.random.default_rng(0)
    weight = rng.integers(10, 100, (rows, items)).astype(float)
    return LinearProgram(
        c=-weight.sum(axis=0) - rng.random(items),
        A=csr_array(weight),
        row_lower=np.full(rows, -np.inf),
        row_upper=np.full(rows, 17.5 * items),
        column_lower=np.zeros(items),
        column_upper=np.ones(items),
        integer=np.ones(items, bool),
    )


def test_an_interrupt_is_not_taken_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """SCIP caught Ctrl-C, and the run went on with what had been found, to an output and exit code 0."""
    assert solve(knapsack(), "program", node_limit=20).objective < 0
    monkeypatch.setattr("pyscipopt.Model", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(knapsack(), "program", node_limit=20)


def test_an_interrupt_ends_a_long_solve_without_a_word(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """SCIP printed "pressed CTRL-C 1 times (5 times for forcing termination)"."""
    monkeypatch.setattr("pyscipopt.Model", Interrupted)
    MADE.clear()
    with pytest.raises(KeyboardInterrupt):
        solve(knapsack(15, 200), "program", time_limit=120)  # which takes far longer
    assert [model.getStatus() for model in MADE] == ["userinterrupt"]
    assert capfd.readouterr() == ("", "")
