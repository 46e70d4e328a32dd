"""Linear and mixed-integer linear programs as plain data, and the solvers for them."""

from onnxprune.programs.linear import LinearProgram

__all__ = ["LinearProgram"]
