"""The ONNX graph: loading, reading nodes, editing, shapes, constant folding, writing. Knows no operator's meaning."""
