"""Calibration: initial quantization parameters from data."""
