"""The driver of SCIP. Signals go to processes of their own: those of the tests have other threads too."""

import subprocess
import sys

CODE = """
import os
import signal
import sys

import numpy as np
import pyscipopt
from scipy.sparse import csr_array

from onnxprune.programs.linear import LinearProgram
from onnxprune.programs.scip import solve

MADE, PRESSED = [], []


class Interrupted(pyscipopt.Model):
    def optimizeNogil(self):
        MADE.append(self)

        class Press(pyscipopt.Eventhdlr):
            def eventinit(self):
                self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

            def eventexec(self, event):
                if not PRESSED:
                    PRESSED.append(event)
                    os.kill(os.getpid(), signal.SIGINT)

        self.includeEventhdlr(Press(), "press", "presses Ctrl-C at the first solution")
        super().optimizeNogil()


def knapsack(rows, items):
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


rows, items, limits = int(sys.argv[1]), int(sys.argv[2]), {sys.argv[3]: int(sys.argv[4])}
if sys.argv[5:]:
    pyscipopt.Model = Interrupted
try:
    print(solve(knapsack(rows, items), "program", **limits).objective < 0)
except KeyboardInterrupt:
    print("interrupted", *{model.getStatus() for model in MADE})
"""


def solved(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_an_interrupt_is_not_taken_for_the_end() -> None:
    """SCIP caught Ctrl-C, and the run went on with what had been found, to an output and exit code 0."""
    assert solved("3", "40", "node_limit", "20") == "True\n"
    assert solved("3", "40", "node_limit", "20", "press").startswith("interrupted ")


def test_an_interrupt_ends_a_long_solve_without_a_word() -> None:
    """SCIP printed "pressed CTRL-C 1 times (5 times for forcing termination)"."""
    assert solved("15", "200", "time_limit", "90", "press") == "interrupted userinterrupt\n"  # it takes far longer
