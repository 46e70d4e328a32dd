"""Allocation: decides how many units each group keeps, by a mixed-integer program."""

from onnxprune.allocation.allocate import allocate
from onnxprune.allocation.problem import Allocation, AllocationProblem, Budget, CostPolynomial
from onnxprune.allocation.table import CostTable
from onnxprune.core.scores import monotone, removal_to_damage

__all__ = [
    "Allocation",
    "AllocationProblem",
    "Budget",
    "CostPolynomial",
    "CostTable",
    "allocate",
    "monotone",
    "removal_to_damage",
]
