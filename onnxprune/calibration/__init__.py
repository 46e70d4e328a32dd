"""Calibration data: reading it, running a model on it, and collecting statistics of its activations."""
