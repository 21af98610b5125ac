"""weightloom serves fabricated weights: it keeps seeds, and weaves W from a seed and a compact vector w."""

__version__ = "0.1.0"
