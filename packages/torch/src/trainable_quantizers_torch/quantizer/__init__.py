"""Quantizers: base classes, annealing, and the shipped quantizers."""
