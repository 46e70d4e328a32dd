"""The errors onnxprune raises, each with the exit code of the command line.

Every message is one line that says which file, node and operator, and what the user can do.
"""


class OnnxPruneError(Exception):
    """Base class of all errors raised on purpose; `exit_code` is the command's exit status."""

    exit_code = 3


class InputError(OnnxPruneError):
    """Wrong usage, or an input that cannot be read (file, data, option)."""

    exit_code = 2


class ModelError(OnnxPruneError):
    """The model was read but cannot be processed."""

    exit_code = 3


class BudgetError(OnnxPruneError):
    """The budget cannot be met; the message says the best that can."""

    exit_code = 4


class AccuracyError(OnnxPruneError):
    """The accuracy floor was missed."""

    exit_code = 5


class SolverError(OnnxPruneError):
    """A program could not be solved: infeasible, no solution within the limits, or a solver failure."""

    exit_code = 6
