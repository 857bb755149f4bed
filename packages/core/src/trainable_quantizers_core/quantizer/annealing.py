"""Linear annealing: a value moves from one number to another over the training steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trainable_quantizers_core.errors import invalid


class BaseLinearAnnealingScheduler(ABC):
    """initial_val + clip((t - t_start)/(t_end - t_start), 0, 1)·(target_val - initial_val).

    Args:
        t_start: Step of the optimizer at which the value begins to move.
        t_end: Step at which it reaches ``target_val``.
        initial_val: Value up to ``t_start``.
        target_val: Value from ``t_end`` on.

    Raises:
        QuantizerError: unless 0 <= t_start < t_end.

    Examples:
        >>> class Annealing(BaseLinearAnnealingScheduler):
        ...     def _compute_factor(self, t):
        ...         return min(max((t - self.t_start) / (self.t_end - self.t_start), 0.0), 1.0)
        >>> Annealing(t_start=10, t_end=20, initial_val=4.0, target_val=2.0)(15)
        3.0
    """

    def __init__(self, t_start: int, t_end: int, initial_val: float, target_val: float) -> None:
        if not 0 <= t_start < t_end:
            advice = "start at 0 or later, and end after the start"
            raise invalid(type(self).__name__, "(t_start, t_end)", "0 <= t_start < t_end", (t_start, t_end), advice)
        self.t_start = t_start
        self.t_end = t_end
        self.initial_val = initial_val
        self.target_val = target_val

    def __call__(self, t: Any) -> Any:
        """The value at step ``t``."""
        return self.initial_val + self._compute_factor(t) * (self.target_val - self.initial_val)

    @abstractmethod
    def _compute_factor(self, t: Any) -> Any:
        """(t - t_start)/(t_end - t_start), clipped to 0..1, in the framework's type."""
