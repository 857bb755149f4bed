"""Quantizers: configurations, grids, parameters and life cycle."""
