"""Oscillations of weights: the flip rate of each weight's level, and freezing above a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from trainable_quantizers_core.constants import FLIP_RATE, MEAN_LEVEL, MOVES, UNIT
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS, ArrayOps
from trainable_quantizers_core.quantizer.schedule import check_step, passed
from trainable_quantizers_core.quantizer.serialization import register_class

OSCILLATES_ABOVE = 0.005
"""Flip rate above which a weight counts as oscillating in telemetry, as in the paper."""

_FROZEN = 2  # in place of a direction


@dataclass(frozen=True)
class Oscillations:
    """Measures the flip rates of weights, and freezes those that oscillate.

    After each step of the optimizer, with k the level of a weight, y = Δ·k, and m = momentum:

    rate = rate + m·(o - rate), o = 1 where k moved against the direction of its last move, else 0
    mean = mean + m·(k - mean)

    A weight is frozen once rate > f: after that step and all that follow the weight is Δ·round(mean).
    From step ``start`` on, f = anneal_from + (freeze_above - anneal_from)·clip((step - start)/ramp, 0, 1).
    A power-of-two Δ that changes moves no level: means are brought onto the new Δ, mean·Δ_old/Δ_new.

    Args:
        momentum: m, the weight of the newest step in both averages.
        freeze_above: f at the end; None freezes nothing.
        anneal_from: f at ``start``, above ``freeze_above``; None keeps f at ``freeze_above``.
        start: First step that freezes weights.
        ramp: Steps over which f falls from ``anneal_from``.

    Raises:
        QuantizerError: a rate or momentum that is not between 0 and 1, steps that are no integers of 0..2^24, or an
            annealing without one of its ends or without steps.

    Source: Nagel et al. 2022, arXiv 2203.11086, which anneals f by a cosine.

    Examples:
        >>> rule = Oscillations(freeze_above=0.01, anneal_from=0.05, start=10, ramp=4)
        >>> [round(float(rule.limit(NUMPY_OPS, np.float32(step))), 2) for step in (9, 10, 12, 14, 99)]
        [inf, 0.05, 0.03, 0.01, 0.01]
    """

    momentum: float = 0.01
    freeze_above: float | None = None
    anneal_from: float | None = None
    start: int = 0
    ramp: int = 0

    def __post_init__(self) -> None:
        self.check(vars(self))

    @classmethod
    def check(cls, values: Mapping[str, Any], where: str = "") -> None:
        """Check that these are valid values of a rule.

        Raises:
            QuantizerError: see the class; ``where`` they were found.
        """
        for name, value in values.items():
            if name in ("start", "ramp"):
                check_step(cls.__name__, name, value, where)
            elif (value is not None or name == "momentum") and not _is_rate(value):
                raise invalid(cls.__name__, name, "above 0 and below 1", value, "0.01 is usual", where)
        given = {**{field.name: field.default for field in fields(cls)}, **values}
        last, first, ramp = (given[name] for name in ("freeze_above", "anneal_from", "ramp"))
        if last is None and (first is not None or ramp or given["start"]):
            advice = "it is the flip rate above which weights are frozen: 0.01, say"
            raise invalid(cls.__name__, "freeze_above", "given for anneal_from, start and ramp", last, advice, where)
        if (first is None) != (ramp == 0) or (first is not None and first <= last):
            rule = "above freeze_above, together with a ramp"
            advice = "f falls from anneal_from to freeze_above over ramp steps; leave both out for a constant one"
            raise invalid(cls.__name__, "anneal_from", rule, first, advice, where)

    def to_dict(self) -> dict[str, float]:
        """The arguments other than None, as values that TOML and JSON can hold."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, given: Any, where: str = "") -> Oscillations:
        """The rule from the result of ``to_dict``, or from a recipe.

        Raises:
            QuantizerError: no table, an unknown key or value.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            advice = f"known keys: {', '.join(known)}"
            raise invalid(cls.__name__, "oscillations", "a table, or false", given, advice, where)
        for key in given:
            if key not in known:
                raise invalid(cls.__name__, "key", "a known one", key, nearest(key, known), where)
        cls.check(given, where)
        return cls(**given)

    def limit(self, ops: ArrayOps, step: Any) -> Any:
        """f, the flip rate above which a weight is frozen at a step: infinite before ``start``."""
        last = self.freeze_above
        if last is None:
            return float("inf")
        first = last if self.anneal_from is None else self.anneal_from
        share = passed(ops, step, self.start, self.ramp)
        return ops.where(step < self.start, float("inf"), first + (last - first) * share)

    @property
    def freezes(self) -> bool:
        """Whether it freezes weights, and so writes them."""
        return self.freeze_above is not None

    def variables(self, shape: tuple[int, ...], unit: np.ndarray | None) -> dict[str, np.ndarray]:
        """The initial state of a weight: its levels and directions in one integer, both averages, and the last Δ.

        Args:
            shape: That of the weight.
            unit: A number for each Δ where it is a power of two, else None.
        """
        numbers = {MEAN_LEVEL: np.zeros(shape, np.float32), FLIP_RATE: np.zeros(shape, np.float32)}
        kept = {} if unit is None else {UNIT: np.zeros_like(unit)}
        return {MOVES: np.zeros(shape, np.int32), **numbers, **kept}

    def followed(
        self, ops: ArrayOps, weight: Any, level: Any, unit: Any, state: Mapping[str, Any], step: Any, counts: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The weight after a step of the optimizer, and its new state.

        Args:
            ops: Of the framework.
            weight: As the optimizer left it.
            level: k, that it is quantized to.
            unit: Δ, shaped for broadcasting.
            state: The variables, ``UNIT`` shaped for broadcasting.
            step: Number of the step that was made, counted from 0.
            counts: Whether a step was made.
        """
        known, direction = level_and_direction(ops, state[MOVES])
        mean, first = state[MEAN_LEVEL], step == 0
        if UNIT in state:
            mean = mean * (state[UNIT] / unit)
            known = ops.where(state[UNIT] == unit, known, level)
        known, mean = ops.where(first, level, known), ops.where(first, level, mean)
        momentum = ops.where(counts, self.momentum, 0.0)
        change = level - known
        rate = state[FLIP_RATE] + momentum * (ops.where(change * direction < 0, 1.0, 0.0) - state[FLIP_RATE])
        moved_to = mean + momentum * (level - mean)
        was_frozen, oscillates = direction == _FROZEN, rate > self.limit(ops, step)
        frozen = was_frozen | oscillates
        direction = ops.where(change > 0, 1.0, ops.where(change < 0, -1.0, direction))
        found = {
            MOVES: 4 * level + ops.where(frozen, float(_FROZEN), direction),
            MEAN_LEVEL: ops.where(was_frozen, mean, ops.where(oscillates, ops.round(moved_to), moved_to)),
            FLIP_RATE: ops.where(was_frozen, state[FLIP_RATE], rate),
        }
        return ops.where(frozen, unit * ops.round(found[MEAN_LEVEL]), weight), found


def _is_rate(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < 1


def level_and_direction(ops: ArrayOps, moves: Any) -> tuple[Any, Any]:
    """The level of each weight, and the sign of its last move (0 before the first), or 2 where it is frozen.

    Examples:
        >>> level, direction = level_and_direction(NUMPY_OPS, np.float32([-13, -3, 0, 5, 6]))
        >>> level.astype(int).tolist(), direction.astype(int).tolist()
        ([-3, -1, 0, 1, 1], [-1, 1, 0, 1, 2])
    """
    level = ops.round((moves - 0.5) / 4.0)
    return level, moves - 4 * level


def shares(moves: np.ndarray, flip_rate: np.ndarray) -> dict[str, float]:
    """Telemetry of a weight: the share of its elements that oscillate, and the share that are frozen.

    Examples:
        >>> shares(np.float32([4, 5, 6, 6]), np.float32([0.0, 0.1, 0.2, 0.2]))
        {'oscillating': 0.25, 'frozen': 0.5}
    """
    frozen = level_and_direction(NUMPY_OPS, moves)[1] == _FROZEN
    oscillating = (flip_rate > OSCILLATES_ABOVE) & ~frozen
    return {"oscillating": float(np.mean(oscillating)), "frozen": float(np.mean(frozen))}


register_class("$oscillations", Oscillations, Oscillations.from_dict)
