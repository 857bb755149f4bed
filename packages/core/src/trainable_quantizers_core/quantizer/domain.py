"""Thresholds in the log2 domain: conversion between a threshold t and its variable v (contract section 2)."""

from __future__ import annotations

import numpy as np

from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.grid import power

_LEAST = np.float32(1 + 2.0**-15)
"""The next number after 1 with 16 significant bits."""


def logarithm(threshold: np.ndarray, power_of_two: bool) -> np.ndarray:
    """The float32 v that is nearest to log2 t; of powers of two with ceil(v) = ceil(log2 t).

    Examples:
        >>> logarithm(np.float32([0.125, 3.0, 65536.01]), power_of_two=True).tolist()
        [-3.0, 1.5849624872207642, 16.000001907348633]
    """
    mantissa, exponent = np.frexp(np.asarray(threshold, np.float64))
    nearest = np.asarray(exponent + np.log2(mantissa), np.float32)
    if not power_of_two:
        return nearest
    beyond = np.nextafter(np.asarray(exponent - 1, np.float32), np.float32(np.inf))  # of the power of two below t
    return np.where(mantissa > 0.5, np.maximum(nearest, beyond), nearest)


def threshold(logarithm: np.ndarray, power_of_two: bool) -> np.ndarray:
    """2^v with 16 significant bits; of powers of two with ceil(log2 t) = ceil(v).

    Examples:
        >>> threshold(np.float32([-3.0, 1.5849625, 1e-7]), power_of_two=True).tolist()
        [0.125, 3.0, 1.000030517578125]
    """
    variable = np.asarray(logarithm, np.float32)
    found = power(NUMPY_OPS, variable)
    if power_of_two:
        found = np.maximum(found, power(NUMPY_OPS, np.ceil(variable) - 1) * _LEAST)
    return np.where(np.isfinite(variable), found, variable)  # kept, because readers look for diverged training
