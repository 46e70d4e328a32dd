"""The version of onnxprune."""

__version__ = "0.1.0"
