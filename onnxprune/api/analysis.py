"""Analyses a model: what can be pruned, what cannot and why."""

from onnxprune.api.arguments import speaks_of_arguments
from onnxprune.structure import coupling

analyze = speaks_of_arguments(coupling.analyze)
