"""The initial parameters of a configuration, checked, and their grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import (
    LARGEST_THRESHOLD,
    LUT_VALUES,
    MAX_RANGE,
    MIN_RANGE,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    TABLE,
    TABLED,
    THRESHOLD,
)
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.config import (
    RangeConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.grid import Grid, symmetric_range
from trainable_quantizers_core.quantizer.table import table_grid

_CONSTANTS = {THRESHOLD: "THRESHOLD", LUT_VALUES: "LUT_VALUES"}


def read_parameters(owner: str, config: RangeConfig, scalars: bool) -> tuple[dict[str, np.ndarray], Grid]:
    """The initial float32 values of a configuration, by the names of their variables, and the grid they are of.

    Args:
        owner: Name of the quantizer, for messages.
        config: Its configuration.
        scalars: Whether each parameter is one number, so that its shape becomes ().

    Raises:
        QuantizerError: keys that are missing or unknown, or values that leave no grid.
    """
    uniform = config.quantization_method is QuantizationMethod.UNIFORM
    params, signed = _given(owner, config, uniform)
    grid = Grid(config.num_bits, signed)
    if uniform and THRESHOLD in params:
        low, high = symmetric_range(params[THRESHOLD], grid)
        params = {MIN_RANGE: np.asarray(low, np.float32), MAX_RANGE: np.asarray(high, np.float32)}
    if uniform:
        grid = Grid(config.num_bits, signed=False)
        _check_order(owner, params)
    if TABLE in params:
        params[TABLE] = _table(owner, params[TABLE], grid)
    if scalars:
        params = {name: value if name == TABLE else _scalar(owner, name, value) for name, value in params.items()}
    return params, grid


def _given(owner: str, config: RangeConfig, uniform: bool) -> tuple[dict[str, np.ndarray], bool]:
    """The raw values by variable name, and whether a threshold among them is signed."""
    given = config.quantization_params
    ranged = uniform and (RANGE_MIN in given or RANGE_MAX in given)
    tabled = config.quantization_method in TABLED
    required = (RANGE_MIN, RANGE_MAX) if ranged else (THRESHOLD, LUT_VALUES) if tabled else (THRESHOLD,)
    known = (*required, SIGNED)  # a range says by itself whether it has values below zero
    for key in given:
        if key not in known:
            where = f" in {config.target}_quantization_params of a {config.quantization_method.name} quantizer"
            raise invalid(owner, "key", f"one of {', '.join(known)}", key, nearest(key, known), where)
    for key in required:
        if key not in given:
            advice = "add RANGE_MIN and RANGE_MAX, or THRESHOLD alone" if uniform else f"add {_CONSTANTS[key]}"
            raise invalid(owner, f"{config.target}_quantization_params", f"a dictionary with {key!r}", given, advice)
    signed = given.get(SIGNED, True)
    if not isinstance(signed, (bool, np.bool_)):
        raise invalid(owner, SIGNED, "True or False", signed, "give a bool")
    if not signed and isinstance(config, TrainableQuantizerWeightsConfig):
        raise invalid(owner, SIGNED, "True for weights", signed, "leave the key out; for a shifted range use UNIFORM")
    names = {RANGE_MIN: MIN_RANGE, RANGE_MAX: MAX_RANGE, LUT_VALUES: TABLE}
    return {names.get(key, key): _numbers(owner, key, given[key]) for key in required}, bool(signed)


def _numbers(owner: str, key: str, value: Any) -> np.ndarray:
    """``value`` as float32, of any shape; thresholds are positive too."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise invalid(owner, key, "a number or an array of numbers", value, str(error)) from error
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise invalid(
            owner, key, "a number or an array of numbers", value, "give a float, a list of floats or an array"
        )
    finite = np.isfinite(array) & (np.abs(array) <= LARGEST_THRESHOLD)
    if not finite.all():
        raise invalid(owner, key, "finite and at most 2^126", value, "look for what made it so large or NaN")
    if key == THRESHOLD and not (array > 0).all():
        raise invalid(owner, key, "positive", value, "give the largest magnitude to represent")
    return array.astype(np.float32)


def _scalar(owner: str, name: str, value: np.ndarray) -> np.ndarray:
    if value.size != 1:
        advice = "give one number, or quantize weights per channel"
        raise invalid(owner, name, "a single number when quantizing per tensor", value.tolist(), advice)
    return value.reshape(())


def _table(owner: str, levels: np.ndarray, grid: Grid) -> np.ndarray:
    """Entries as fractions of the threshold."""
    of_table, count = table_grid(grid.signed), grid.num_steps + 1
    within = (levels == np.rint(levels)) & (levels >= of_table.lowest) & (levels <= of_table.highest)
    if levels.shape != (count,) or not within.all():
        rule = f"{count} integers in {of_table.lowest}..{of_table.highest}"
        raise invalid(owner, LUT_VALUES, rule, levels.tolist(), "repeat entries to use fewer of them")
    return (levels / np.float32(of_table.steps_per_threshold)).astype(np.float32)


def _check_order(owner: str, params: Mapping[str, np.ndarray]) -> None:
    low, high = params[MIN_RANGE], params[MAX_RANGE]
    if low.size > 1 and high.size > 1 and low.shape != high.shape:
        raise invalid(owner, RANGE_MIN, f"of the shape of {RANGE_MAX} {high.shape}", low.shape, "give both alike")
    if not (low.reshape(-1) < high.reshape(-1)).all():
        value = (low.tolist(), high.tolist())
        raise invalid(owner, f"({RANGE_MIN}, {RANGE_MAX})", "in ascending order", value, "swap or widen the ends")
