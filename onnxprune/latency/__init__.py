"""Latency as a cost: times of onnxruntime's kernels at various widths, measured on this machine."""
