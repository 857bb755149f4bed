"""Recipes: what of a model is quantized, and how."""
