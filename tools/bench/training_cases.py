"""The cases of the training benchmarks, for both frameworks."""

from __future__ import annotations

from typing import Any

STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and strides of MobileNet v1 (Howard et al. 2017, arXiv 1704.04861)."""

BIASES: dict[str, dict[str, Any]] = {
    "biases in float": {"bias": "float"},
    "on their grids": {},
    "sums of 24 bits": {"accumulator_bits": 24},
}
"""Fields of ``WeightsScheme`` by their titles in the tables."""
