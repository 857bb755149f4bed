"""Keys of parameter dictionaries, groups of methods, and numbers that all quantizers share."""

from mct_quantizers import QuantizationMethod

TABLED = (QuantizationMethod.LUT_SYM_QUANTIZER, QuantizationMethod.LUT_POT_QUANTIZER)
"""The methods whose levels are the entries of a table."""

POWERS = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.LUT_POT_QUANTIZER)
"""The methods whose thresholds are powers of two."""

THRESHOLD = "threshold"
SIGNED = "is_signed"
RANGE_MIN = "range_min"
RANGE_MAX = "range_max"
LUT_VALUES = "lut_values"

MIN_RANGE = "min_range"
"""Name of the variable that holds the lower end of a uniform range."""
MAX_RANGE = "max_range"
"""Name of the variable that holds the upper end of a uniform range."""

TABLE = "table"
"""Name of the variable that holds the entries of a table, as fractions of the threshold."""

STEP = "step"
"""Name of the variable that counts the steps of a schedule."""
HELD = "held"
"""Ending of the name of the variable that another one is read from while it does not learn."""

ALPHA = "alpha"
"""Name of the variable that says of each weight how far its rounding was moved."""

ATTENTION = "attention"
"""Name of the variable that says of each candidate how much it counts."""

MOVES = "moves"
"""Name of the variable that holds of each weight four times its level, plus the direction of its last move."""
MEAN_LEVEL = "mean_level"
"""Name of the variable that averages the levels of each weight over the steps."""
FLIP_RATE = "flip_rate"
"""Name of the variable that averages how often each weight moves back."""
UNIT = "unit"
"""Name of the variable that holds the power-of-two step of the levels of a weight when they were last seen."""

MIN_THRESHOLD = 2.0**-16
"""Smallest threshold, and smallest width of a uniform range, unless a configuration names another."""

SMALLEST_MIN_THRESHOLD = 2.0**-100
"""Below it a step of 16 bits would leave the normal numbers of float32."""

LARGEST_THRESHOLD = 2.0**126
"""Above it the width of a signed range would overflow float32."""

TARGETS = ("weights", "activation")
"""The targets of quantization, as configurations and reports name them."""

VAR = "var"
"""Key of the variable in an entry of ``quantizer_parameters``."""
GROUP = "group"
"""Key of the ``VariableGroup`` in an entry of ``quantizer_parameters``."""
