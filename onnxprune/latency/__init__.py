"""Latency as a cost: kernel times of operators at a grid of widths, measured in onnxruntime on this machine."""
