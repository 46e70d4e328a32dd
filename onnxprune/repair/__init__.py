"""Repair of the weights that remain after pruning."""
