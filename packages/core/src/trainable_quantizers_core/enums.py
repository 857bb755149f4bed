"""The project's enumerations. Methods and targets of quantization are those of mct-quantizers."""

from __future__ import annotations

from enum import Enum


class TrainingMethod(str, Enum):
    """How a shipped quantizer learns. Members equal their strings: ``TrainingMethod("LSQ") == "LSQ"``.

    The set is not closed: ``identifier`` in ``@mark_quantizer`` may be any value, so a new method of
    yours needs a string of its own and no change here.
    """

    STE = "STE"
    """Straight-through estimator: parameters learn from saturated values alone."""
    LSQ = "LSQ"
    """Learned step size (Esser et al. 2020, arXiv 1902.08153): parameters learn from rounding errors too."""


class VariableGroup(Enum):
    """What a variable of a quantizer belongs to, so that an optimizer can treat the groups differently."""

    WEIGHTS = 0
    """The quantized weights, or what is added to them."""
    QPARAMS = 1
    """Quantization parameters: thresholds and range ends."""
