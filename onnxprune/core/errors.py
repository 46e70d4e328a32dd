"""The errors onnxprune raises, each with the exit code of the command line.

Every message is one line that says which file, node and operator, and what the user can do.
"""


class OnnxPruneError(Exception):
    """Base class of all errors that onnxprune raises; `exit_code` is the command line's exit status.

    Example:
        ```python
        try:
            onnxprune.prune("model.onnx", "rows.npz", targets="macs=0.5")
        except onnxprune.OnnxPruneError as error:
            print(f"{error} (exit code {error.exit_code})")
        ```
    """

    exit_code = 3


class InputError(OnnxPruneError):
    """The user's input is wrong: options, or a file or data that cannot be read.

    Example:
        ```python
        try:
            onnxprune.prune("missing.onnx", "rows.npz", targets="macs=0.5")
        except onnxprune.InputError as error:
            print(error)  # missing.onnx does not exist
        ```
    """

    exit_code = 2


class ModelError(OnnxPruneError):
    """The model cannot be processed.

    Example:
        ```python
        try:
            onnxprune.analyze("model.onnx")
        except onnxprune.ModelError as error:
            print(error)
        ```
    """

    exit_code = 3


class SizesError(ModelError):
    """The model cannot take inputs of the sizes that were chosen."""


class BudgetError(OnnxPruneError):
    """The budget cannot be met; the message says what can be reached.

    Example:
        ```python
        try:
            onnxprune.prune("model.onnx", "rows.npz", targets="macs=0.001")
        except onnxprune.BudgetError as error:
            print(error)
        ```
    """

    exit_code = 4


class AccuracyError(OnnxPruneError):
    """The result's accuracy is below the floor that the user set.

    Example:
        ```python
        try:
            onnxprune.prune("model.onnx", "rows.npz", evaluation="test.npz", targets="macs=0.3", max_drop=0.5)
        except onnxprune.AccuracyError as error:
            print(error)
        ```
    """

    exit_code = 5


class SlowerError(OnnxPruneError):
    """The result is not faster than its original, and the user asked for that to be an error."""

    exit_code = 7


class SolverError(OnnxPruneError):
    """An optimisation problem could not be solved: infeasible, out of time, or a failure of the solver.

    Example:
        ```python
        try:
            onnxprune.prune("model.onnx", "rows.npz", importance="oamip", targets="macs=0.5")
        except onnxprune.SolverError as error:
            print(error)
        ```
    """

    exit_code = 6
