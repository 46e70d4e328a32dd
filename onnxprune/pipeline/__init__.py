"""The order of the stages: prepare, score, decide, shrink, finish; known in this package only."""
