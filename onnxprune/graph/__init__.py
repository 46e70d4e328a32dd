"""The ONNX file: load, nodes, edit, shapes, folding, write. Knows no operator's meaning."""
