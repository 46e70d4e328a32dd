"""Compares two models by running both in onnxruntime: accuracy, and how far their outputs differ."""
