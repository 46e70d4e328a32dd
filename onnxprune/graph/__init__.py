"""Loading, analysing and rewriting ONNX graphs."""
