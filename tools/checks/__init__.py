"""What the tools that judge onnxprune from outside share: the corpus, the command as a subprocess, files compared."""
