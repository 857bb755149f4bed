"""The choice of bit widths with the least error within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.graph.costs import OperationCost

_OWNER = "Budget"
_FLOAT = 32  # bits
_MOST = 2**16
Unit = tuple[str, str]
"""``weights`` or ``activations``, and the name of the operation that gives or reads them."""


@dataclass(frozen=True)
class Budget:
    """The maximum cost of a network, as one of three amounts.

    Args:
        weight_bytes: Σ elements·bits/8 over all quantized weights, in bytes.
        bit_operations: Σ multiply-accumulates·(bits of the weights)·(bits of the input) for one example; of a product
            of two activations, the bits of both. What is not quantized counts 32 bits.
        latency: Σ of the times in ``latency_table``, in its unit.
        latency_table: By layer name, the time for each width of its weights ({4: 0.8, 8: 1.3}), or for each pair of
            the widths of weights and input ({(4, 8): 0.9, (8, 8): 1.3}). Other layers cost nothing.

    Raises:
        QuantizerError: not one positive amount, or a latency without a table.

    Examples:
        >>> Budget(weight_bytes=20_000).amount
        20000.0
    """

    weight_bytes: float | None = None
    bit_operations: float | None = None
    latency: float | None = None
    latency_table: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if name != "latency_table" and value is not None}
        if len(given) != 1:
            rule = "one of weight_bytes, bit_operations, latency"
            raise invalid(_OWNER, "amount", rule, given, "write Budget(weight_bytes=20_000), say")
        ((name, amount),) = given.items()
        if not isinstance(amount, (int, float)) or isinstance(amount, bool) or not 0 < amount < inf:
            raise invalid(_OWNER, name, "a positive number", amount, "it is what the network may cost at most")
        tables = self.latency_table.values() if isinstance(self.latency_table, Mapping) else [None]
        if not all(isinstance(each, Mapping) and each for each in tables):
            rule, advice = "a table for each layer", "write {'conv': {4: 0.8, 8: 1.3}}"
            raise invalid(_OWNER, "latency_table", rule, self.latency_table, advice)
        if bool(self.latency_table) != (name == "latency"):
            advice = "give both or none of them"
            raise invalid(_OWNER, "latency_table", "given with a latency", self.latency_table, advice)

    @property
    def counts(self) -> str:
        """The name of the amount that was given."""
        return next(name for name in ("weight_bytes", "bit_operations", "latency") if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        """The amount that was given."""
        return float(getattr(self, self.counts))

    @property
    def moves_activations(self) -> bool:
        """Whether the widths of activations count."""
        return self.counts == "bit_operations" or any(map(_has_pairs, self.latency_table.values()))

    def check_table(self, operations: Sequence[OperationCost], widths: Sequence[int]) -> None:
        """Check that the latency table fits the operations.

        Raises:
            QuantizerError: a layer that has no quantized weights, or a width without a time.
        """
        names = {name for each in operations if each.weights for name in each.known_as}
        on_grids = {name for each in operations if all(each.inputs) for name in each.known_as}
        for layer, table in self.latency_table.items():
            if _has_pairs(table) and layer in names and layer not in on_grids:
                rule, advice = "one with times for widths of weights alone", "its input is in float"
                raise invalid(_OWNER, "latency_table", rule, dict(table), advice, f" for {layer!r}")
            if layer not in names:
                known = [each.name for each in operations if each.weights]
                raise invalid(_OWNER, "latency_table", "one of quantized layers", layer, nearest(layer, known))
            wanted = [*(product(widths, widths) if _has_pairs(table) else widths)]
            if not set(wanted) <= set(table):
                rule = f"one with a time for {wanted}"
                raise invalid(_OWNER, "latency_table", rule, dict(table), "or search fewer widths", f" for {layer!r}")

    def of(self, operation: OperationCost, bits: Mapping[Unit, int]) -> float:
        """The cost of an operation at given widths.

        Examples:
            >>> fc = OperationCost("fc", "fc", 6, 12, (("x",),), frozenset({"fc"}))
            >>> Budget(bit_operations=1e3).of(fc, {("weights", "fc"): 4, ("activations", "x"): 8})
            384
        """
        weights = bits.get(("weights", operation.weights), 0)
        if self.counts == "weight_bytes":
            return operation.elements * weights / 8
        read = [
            max((bits.get(("activations", name), _FLOAT) for name in names), default=_FLOAT)
            for names in operation.inputs
        ]
        if self.counts == "bit_operations":
            if operation.weights or len(read) < 2:  # one operand is a weight, or a weight in float
                return operation.work * (weights or _FLOAT) * max(read, default=_FLOAT)
            return operation.work * read[0] * read[1]
        table = next((self.latency_table[name] for name in operation.known_as if name in self.latency_table), None)
        if table is None:
            return 0
        return table[(weights, max(read, default=_FLOAT))] if _has_pairs(table) else table[weights]


def _has_pairs(table: Mapping[Any, float]) -> bool:
    return any(isinstance(key, tuple) for key in table)


def choose(
    errors: Mapping[Unit, Mapping[int, float]], operations: Sequence[OperationCost], budget: Budget
) -> dict[Unit, int]:
    """The widths with the least Σ errors among those within the budget.

    Where each operation costs by one width that is open, as bytes and most latencies do, a dynamic program finds them:
    it goes through the units and keeps, of all choices so far, those that no other beats in both cost and error. Bit
    operations are products of two widths, which do not add up over the choices: there it starts with each width that
    fits everywhere, and where steps down from the widest lead that add least error for what they save; takes the steps
    up that fit; and trades one width down for others up, as long as that helps. On random networks of 5 layers that is
    the best choice in nine of ten cases.

    Args:
        errors: Of each unit at each width.
        operations: The costs of the operations by width.
        budget: Their maximum cost.

    Raises:
        QuantizerError: the narrowest widths cost more than the budget.

    Examples:
        >>> fc = OperationCost("fc", "fc", 600, 0, (("x",),), frozenset({"fc"}))
        >>> choose({("weights", "fc"): {2: 0.1, 4: 0.01, 8: 0.0}}, [fc], Budget(weight_bytes=400))
        {('weights', 'fc'): 4}
    """
    search = _Search(errors, operations, budget)
    bits = {unit: max(table) for unit, table in errors.items()}
    least, most = search.cost({unit: min(table) for unit, table in errors.items()}), search.cost(bits)
    if least > budget.amount:
        rule = f"at least {least:g}, which the narrowest widths need"
        raise invalid(
            _OWNER, budget.counts, rule, budget.amount, f"the widest need {most:g}; or search narrower widths"
        )
    return (
        search.exact() if search.adds_up else search.traded(min(map(search.filled, search.starts()), key=search.error))
    )


def cost_of(operations: Sequence[OperationCost], bits: Mapping[Unit, int], budget: Budget) -> float:
    """The total cost of all operations."""
    return sum(budget.of(each, bits) for each in operations)


@dataclass(frozen=True)
class _Step:
    """One width that changes: what that adds to the error and to the cost."""

    error: float
    cost: float
    unit: Unit
    width: int


class _Search:
    def __init__(
        self, errors: Mapping[Unit, Mapping[int, float]], operations: Sequence[OperationCost], budget: Budget
    ) -> None:
        self.errors, self.operations, self.budget = errors, operations, budget
        self.concerned = {unit: [each for each in operations if _reads(each, unit)] for unit in errors}
        self.given = {unit: width for unit, (width, *others) in errors.items() if not others}
        self.free = {unit: table for unit, table in errors.items() if unit not in self.given}

    def cost(self, bits: Mapping[Unit, int]) -> float:
        return cost_of(self.operations, bits, self.budget)

    def error(self, bits: Mapping[Unit, int]) -> float:
        return sum(table[bits[unit]] for unit, table in self.errors.items())

    @property
    def adds_up(self) -> bool:
        """Whether each operation costs by one open width at most."""
        seen = [id(each) for unit in self.free for each in self.concerned[unit]]
        return len(seen) == len(set(seen))

    def exact(self) -> dict[Unit, int]:
        """The best of all choices, or, of more than 2^16 that none beats, the best that is left of them."""
        moved = {id(each) for unit in self.free for each in self.concerned[unit]}
        rest = [each for each in self.operations if id(each) not in moved]
        cost, error = np.array([cost_of(rest, self.given, self.budget)]), np.zeros(1)
        chosen: list[tuple[Unit, np.ndarray, np.ndarray]] = []
        for unit, table in self.free.items():
            widths = np.array(list(table))
            costs = [cost_of(self.concerned[unit], {**self.given, unit: int(width)}, self.budget) for width in widths]
            cost, error = (np.add.outer(*each).ravel() for each in ((cost, costs), (error, [*table.values()])))
            order = np.lexsort((error, cost))
            order = order[cost[order] <= self.budget.amount * (1 + 1e-12)]
            best = np.minimum.accumulate(error[order])
            order = order[np.append(True, best[1:] < best[:-1])]
            order = order[:: len(order) // _MOST + 1]
            cost, error = cost[order], error[order]
            chosen.append((unit, order // len(widths), widths[order % len(widths)]))
        bits, at = dict(self.given), int(np.argmin(error))
        for unit, before, widths in reversed(chosen):
            bits[unit], at = int(widths[at]), int(before[at])
        return {unit: bits[unit] for unit in self.errors}

    def starts(self) -> Iterator[dict[Unit, int]]:
        """Each width that fits everywhere, and the end of the way down from the widest."""
        for width in {width for table in self.errors.values() for width in table}:
            bits = dict.fromkeys(self.errors, width)
            if self.cost(bits) <= self.budget.amount:
                yield bits
        bits = {unit: max(table) for unit, table in self.errors.items()}
        while self.cost(bits) > self.budget.amount:
            saving = [step for step in self.steps(bits, up=False) if step.cost < 0]
            best = min(saving, key=lambda step: step.error / -step.cost)
            bits[best.unit] = best.width
        yield bits

    def steps(self, bits: dict[Unit, int], up: bool) -> list[_Step]:
        found = []
        for unit, table in self.errors.items():
            now = bits[unit]
            widths = [width for width in table if (width > now if up else width < now)]
            before = sum(self.budget.of(each, bits) for each in self.concerned[unit]) if widths else 0
            for width in widths:
                after = sum(self.budget.of(each, {**bits, unit: width}) for each in self.concerned[unit])
                found.append(_Step(table[width] - table[now], after - before, unit, width))
        return found

    def filled(self, bits: dict[Unit, int]) -> dict[Unit, int]:
        """Take steps up that fit, starting with those that save most error."""
        bits, room = dict(bits), self.budget.amount - self.cost(bits)
        while fitting := [step for step in self.steps(bits, up=True) if step.cost <= room and step.error < 0]:
            best = min(fitting, key=lambda step: step.error)
            bits[best.unit], room = best.width, room - best.cost
        return bits

    def traded(self, bits: dict[Unit, int]) -> dict[Unit, int]:
        """Trade one width down for others up, as long as that helps."""
        while True:
            down = (step for step in self.steps(bits, up=False) if step.cost < 0)
            trials = (self.filled({**bits, step.unit: step.width}) for step in down)
            better = next((trial for trial in trials if self.error(trial) < self.error(bits) * (1 - 1e-9)), None)
            if better is None:
                return bits
            bits = better


def _reads(operation: OperationCost, unit: Unit) -> bool:
    target, name = unit
    return name == operation.weights if target == "weights" else any(name in names for names in operation.inputs)
