"""The driver of SCIP."""

import os
import signal

import numpy as np
import pyscipopt
import pytest
from scipy.sparse import csr_array

from onnxprune.programs.linear import LinearProgram
from onnxprune.programs.scip import solve


class Interrupted(pyscipopt.Model):
    """Somebody presses Ctrl-C at the first solution."""

    def optimize(self) -> None:
        class Press(pyscipopt.Eventhdlr):
            def eventinit(self) -> None:
                self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

            def eventexec(self, event: object) -> None:
                os.kill(os.getpid(), signal.SIGINT)

        self.includeEventhdlr(Press(), "press", "presses Ctrl-C")
        super().optimize()


def knapsack() -> LinearProgram:
    rng = np.random.default_rng(0)
    weight = rng.integers(10, 100, (3, 40)).astype(float)
    return LinearProgram(
        c=-weight.sum(axis=0) - rng.random(40),
        A=csr_array(weight),
        row_lower=np.full(3, -np.inf),
        row_upper=np.full(3, 700.0),
        column_lower=np.zeros(40),
        column_upper=np.ones(40),
        integer=np.ones(40, bool),
    )


def test_an_interrupt_is_not_taken_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """SCIP caught Ctrl-C, and the run went on with what had been found, to an output and exit code 0."""
    assert solve(knapsack(), "program", node_limit=20).objective < 0
    monkeypatch.setattr("pyscipopt.Model", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(knapsack(), "program", node_limit=20)
