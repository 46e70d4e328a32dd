"""The parts of `tools/reproduce_paper.py` and `tools/vary_paper.py`."""
