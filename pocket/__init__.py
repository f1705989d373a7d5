"""The built-in model: a procedural world with exact ground truth, its detector, and models trained on it."""
