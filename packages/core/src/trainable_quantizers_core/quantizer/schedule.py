"""Schedules: the training steps at which a quantizer quantizes and its parameters learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.array_ops import ArrayOps
from trainable_quantizers_core.quantizer.serialization import register_class

LAST_STEP = 2**24
"""Keras counts steps in a float32, exactly up to here; the count stays there in both frameworks."""


@dataclass(frozen=True)
class QuantizationSchedule:
    """The steps of the optimizer, counted from 0, at which a quantizer quantizes and its parameters learn.

    In training y = x + share·(q(x) - x), with share = clip((step - start + 1)/(ramp + 1), 0, 1), so its gradient
    is that of q, weighted by share, plus 1 for x, weighted by 1 - share. In evaluation y = q(x) at any step, so
    evaluation always measures the model that conversion deploys. The parameters of q learn while
    learn_from <= step < learn_until; before and after they keep their values, regardless of the optimizer.

    Args:
        start: First step that quantizes: training is in float before.
        ramp: Steps over which quantization grows from there to the full one; 0 quantizes fully at once.
        learn_from: First step that moves the parameters.
        learn_until: First step that no longer moves them; None sets no end.

    Raises:
        QuantizerError: values that are not integers in 0..2^24, or no step from ``learn_from`` to ``learn_until``.

    Examples:
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> schedule = QuantizationSchedule(start=10, ramp=3)
        >>> [float(schedule.share(NUMPY_OPS, step)) for step in (9, 10, 11, 12, 13, 99)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    start: int = 0
    ramp: int = 0
    learn_from: int = 0
    learn_until: int | None = None

    def __post_init__(self) -> None:
        self.check(vars(self))

    @classmethod
    def check(cls, values: Mapping[str, Any], where: str = "") -> None:
        """Check that these are valid values of a schedule.

        Raises:
            QuantizerError: see the class; ``where`` they were found.
        """
        for name, value in values.items():
            if value is not None or name != "learn_until":
                check_step(cls.__name__, name, value, where)
        learn_from, learn_until = values.get("learn_from", 0), values.get("learn_until")
        if learn_until is not None and learn_until <= learn_from:
            advice = "use freeze for parameters that never learn"
            raise invalid(cls.__name__, "learn_until", f"after learn_from ({learn_from})", learn_until, advice, where)

    def to_dict(self) -> dict[str, int]:
        """The arguments other than None, as values that TOML and JSON can hold."""
        return {name: int(step) for name, step in vars(self).items() if step is not None}

    @property
    def full_from(self) -> int:
        """First step that quantizes fully."""
        return self.start + self.ramp

    def rounding_power(self, ops: ArrayOps, step: Any) -> Any:
        """β of the regularizer of soft rounding: from 20 at ``start`` to 2 at ``full_from``."""
        return 20.0 - 18.0 * passed(ops, step, self.start, self.ramp)

    def temperature(self, ops: ArrayOps, step: Any) -> Any:
        """τ of quantization with attention: from 1 at ``start`` to 0.01 at ``full_from``."""
        return 0.01 ** passed(ops, step, self.start, self.ramp)

    @property
    def holds(self) -> bool:
        """Whether there are steps at which the parameters do not learn."""
        return self.learn_from > 0 or self.learn_until is not None

    def share(self, ops: ArrayOps, step: Any) -> Any:
        """How much of the quantization takes effect at a step, 0..1; exactly 1 from ``full_from`` on."""
        rising = ops.divide(step - (self.start - 1), float(self.ramp + 1))
        return ops.where(step >= self.full_from, 1.0, ops.where(step < self.start, 0.0, rising))

    def learns(self, step: Any) -> Any:
        """Whether the parameters move at a step: a boolean, or a tensor of them."""
        learns = step >= self.learn_from
        return learns if self.learn_until is None else learns & (step < self.learn_until)


def check_step(owner: str, name: str, value: Any, where: str = "") -> None:
    """Check that a value can be a step or a number of steps.

    Raises:
        QuantizerError: not an integer in 0..2^24.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) <= LAST_STEP:
        raise invalid(owner, name, f"an integer in 0..{LAST_STEP}", value, "count steps of the optimizer", where)


def passed(ops: ArrayOps, step: Any, start: int, ramp: int) -> Any:
    """The share of a ramp that is done at a step, 0..1."""
    share = ops.divide(step - start, float(max(ramp, 1)))
    return ops.where(share > 1, 1.0, ops.where(share < 0, 0.0, share))


register_class("$schedule", QuantizationSchedule, lambda fields: QuantizationSchedule(**fields))
