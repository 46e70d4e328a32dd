"""onnxruntime: sessions, inputs to run models on, and how long models take."""
