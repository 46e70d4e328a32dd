"""Metrics and comparison of two models in onnxruntime."""
