"""What a model's outputs mean, and how far two sets of them are apart."""
