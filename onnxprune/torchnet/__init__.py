"""Runs ONNX graphs in torch, and defines the loss that training minimises."""
