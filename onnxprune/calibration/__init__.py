"""Calibration inputs, activation taps and second-moment statistics."""
