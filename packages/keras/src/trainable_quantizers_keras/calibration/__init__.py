"""Initial parameters from data."""
