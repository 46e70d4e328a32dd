"""The errors onnxprune raises, each with the exit code of the command line.

Every message is one line that says which file, node and operator, and what the user can do.
"""


class OnnxPruneError(Exception):
    """Base class of all errors that onnxprune raises; `exit_code` is the command line's exit status."""

    exit_code = 3


class InputError(OnnxPruneError):
    """The user's input is wrong: options, or a file or data that cannot be read."""

    exit_code = 2


class ModelError(OnnxPruneError):
    """The model cannot be processed."""

    exit_code = 3


class SizesError(ModelError):
    """The model cannot take inputs of the sizes that were chosen."""


class BudgetError(OnnxPruneError):
    """The budget cannot be met; the message says what can be reached."""

    exit_code = 4


class AccuracyError(OnnxPruneError):
    """The result's accuracy is below the floor that the user set."""

    exit_code = 5


class SlowerError(OnnxPruneError):
    """The result is not faster than its original, and the user asked for that to be an error."""

    exit_code = 7


class SolverError(OnnxPruneError):
    """An optimisation problem could not be solved: infeasible, out of time, or a failure of the solver."""

    exit_code = 6
