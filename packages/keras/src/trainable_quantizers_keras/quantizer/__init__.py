"""Quantizers: configurations, grids, their parameters and life cycle."""
