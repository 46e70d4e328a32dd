"""Repair: least-squares refits of what remains, and fine-tuning (`repair.finetune`, needs torch)."""

from onnxprune.repair.sequential import repair

__all__ = ["repair"]
