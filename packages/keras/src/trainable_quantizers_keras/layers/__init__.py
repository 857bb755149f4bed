"""Layers that hold quantizers."""
