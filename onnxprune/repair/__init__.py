"""Repair: least-squares refits of what remains, and fine-tuning (`finetune`, needs torch)."""

from onnxprune.repair.sequential import repair

__all__ = ["repair"]
