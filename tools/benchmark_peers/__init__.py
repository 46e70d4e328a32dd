"""What `tools/benchmark.py` runs: the cases, the peers' workers, the common measurement and the document."""
