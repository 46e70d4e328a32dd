"""onnxruntime: sessions, random inputs, and timing of models."""
