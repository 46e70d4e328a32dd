"""Runs the stages of pruning in order: prepare, score, decide, shrink, finish. Only this package knows the order."""
