"""An ONNX graph as a torch module, and what training it minimises."""
