"""Linear and mixed-integer linear programs as data, and the solvers they are handed to."""

from onnxprune.programs.linear import LinearProgram

__all__ = ["LinearProgram"]
