"""Recipes: which parts of a model are quantized, and how."""
