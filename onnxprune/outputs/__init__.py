"""What a model's outputs hold, and how far two sets of outputs differ."""
