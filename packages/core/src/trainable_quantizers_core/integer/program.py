"""A network as integer operations, run by numpy: a reference for the results of a device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.errors import QuantizerError, invalid
from trainable_quantizers_core.integer import program_file
from trainable_quantizers_core.integer.arithmetic import FLOAT
from trainable_quantizers_core.integer.lattice import EXACT_FLOAT_BITS
from trainable_quantizers_core.integer.step import Step, Value, computed
from trainable_quantizers_core.integer.tie_rules import Rounding, TieRules
from trainable_quantizers_core.quantizer.accumulator import bits_of

SUMS = ("convolution", "matmul", "sum_pool", "total")
QUANTIZING = ("quantize", "requantize", "rescale", "lookup")


@dataclass(frozen=True)
class Accumulator:
    """The sums of a layer.

    Args:
        name: Of the layer.
        worst: Bits that they need for any input, the sign included.
        seen: Bits that they needed on the given inputs; None without inputs.
    """

    name: str
    worst: int
    seen: int | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """A network for one sample as integer operations; ``to_integer`` makes it from a converted model.

    Args:
        values: Its tensors.
        steps: Its operations, in order.
        constants: Weights, biases, tables, by name.
        inputs: Positions of its arguments among the values.
        outputs: Position of each result by name.
        notes: Where and why it differs from the network that it was made from.

    Examples:
        >>> values = [Value((1, 3), "float32"), Value((1, 3), exponent=-1, low=-8, high=7)]
        >>> quantize = Step("quantize", "x", (0,), 1, {"step": 0.5, "low": -8, "high": 7, "rule": "half_up"})
        >>> program = Program(values, [quantize], {}, [0], {"output": 1})
        >>> x = np.float32([[0.2, 0.25, 9.0]])
        >>> program.run(x).tolist(), program.run(x, integers=True).tolist()
        ([[0.0, 0.5, 3.5]], [[0, 1, 7]])
        >>> program.with_rounding("half_even").run(x).tolist()
        [[0.0, 0.0, 3.5]]
    """

    values: Sequence[Value]
    steps: Sequence[Step]
    constants: Mapping[str, np.ndarray]
    inputs: Sequence[int]
    outputs: Mapping[str, int]
    notes: Sequence[str] = ()

    def run(self, *inputs: Any, integers: bool = False, **named: Any) -> Any:
        """Run the program on a batch, one sample after the other.

        Args:
            inputs: Arrays or tensors, samples along the first axis; or lists, tuples or dictionaries of them, a
                dictionary in the order of its keys.
            integers: Whether to return integers instead of the floats that they stand for.
            named: Further inputs, in the order of their names.

        Returns:
            An array, or a dictionary of arrays by name if there are several results.

        Raises:
            QuantizerError: other inputs than the network has, or an integer beyond what was proven.
        """
        return self.joined((inputs, named), lambda sample: dict(self._held(sample)), integers)

    __call__ = run

    def observed(
        self, *inputs: Any, given: Mapping[str, Sequence[Any]] | None = None, **named: Any
    ) -> tuple[Any, dict[str, list[np.ndarray]]]:
        """The result of ``run``, and the outputs of the quantizers as floats, by name in order of execution.

        Args:
            inputs: As of ``run``.
            given: The outputs of a device's quantizers for these inputs, in the same form, with None for unknown ones.
                Operations behind a quantizer read these, so that each quantizer shows only the difference that
                arises there, not those before it.
            named: As of ``run``.

        Raises:
            QuantizerError: as of ``run``.
        """
        steps = [step for step in self.steps if step.operation in QUANTIZING]
        seen: dict[int, list[np.ndarray]] = {step.output: [] for step in steps}
        shown = {name: iter(arrays) for name, arrays in (given or {}).items()}
        of_device = [(step.output, next(shown.get(step.name, iter(())), None)) for step in steps]
        instead = {index: self.values[index].integers(array) for index, array in of_device if array is not None}

        def compute(sample: list[np.ndarray]) -> dict[int, np.ndarray]:
            at = len(next(iter(seen.values()), ()))
            held = dict(self._held(sample, seen, {index: array[at : at + 1] for index, array in instead.items()}))
            for index, samples in seen.items():
                samples.append(self.values[index].floats(held[index]))
            return held

        result = self.joined((inputs, named), compute)
        found: dict[str, list[np.ndarray]] = {}
        for step in steps:
            found.setdefault(step.name, []).append(np.concatenate(seen[step.output]))
        return result, found

    def joined(
        self, inputs: Any, compute: Callable[[list[np.ndarray]], Mapping[int, np.ndarray]], integers: bool = False
    ) -> Any:
        """The results of ``run``, where ``compute`` gives those of one sample by position.

        Raises:
            QuantizerError: as of ``run``.
        """
        results: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        for sample in self.samples(inputs):
            held = compute(sample)
            for name, index in self.outputs.items():
                results[name].append(held[index] if integers else self.values[index].floats(held[index]))
        joined = {name: np.concatenate(parts) for name, parts in results.items()}
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def accumulators(self, *inputs: Any) -> list[Accumulator]:
        """The accumulator bits of each layer: the worst case, and those needed on a batch.

        Raises:
            QuantizerError: as of ``run``.
        """
        seen: dict[int, int] = {}
        sums = [step for step in self.steps if step.operation in SUMS and self.values[step.output].dtype == "integer"]
        for sample in self.samples(inputs) if inputs else ():
            held = dict(self._held(sample, keep={step.output for step in sums}))
            for step in sums:
                bits = bits_of(held[step.output].min(), held[step.output].max())
                seen[step.output] = max(bits, seen.get(step.output, 0))
        return [Accumulator(step.name, self.values[step.output].bits, seen.get(step.output)) for step in sums]

    @property
    def float_operations(self) -> list[str]:
        """Names of the operations that stay in float (float islands)."""
        names = [
            f"{step.name} ({step.operation})"
            for step in self.steps
            if step.operation in FLOAT and self.values[step.output].dtype == "float32"
        ]
        return list(dict.fromkeys(names))

    @property
    def causes(self) -> tuple[str, ...]:
        """Reasons why another runtime, or another order of sums, can give other results than the network."""
        found = list(self.notes)
        wide = [each for each in self.accumulators() if each.worst > EXACT_FLOAT_BITS + 1]
        if wide:
            first = f"{wide[0].name} ({wide[0].worst} bits)" + (f" and {len(wide) - 1} more" if len(wide) > 1 else "")
            found.append(f"Sums beyond 2^{EXACT_FLOAT_BITS} at worst, which float32 rounds: {first}.")
        if islands := self.float_operations:
            more = f" and {len(islands) - 3} more" if len(islands) > 3 else ""
            found.append(f"Operations in float: {', '.join(islands[:3])}{more}.")
        if self.rescale:
            rules = " and ".join(sorted(rule.value for rule in self.rescale))
            found.append(
                f"Steps that are no powers of two, to which sums are rescaled ({rules} in the integer program)."
            )
        rules = " and ".join(sorted(rule.value for rule in self.rounding))
        return (*found, f"Ties are rounded {rules}.")

    @property
    def rounding(self) -> set[RoundingRule]:
        """The rules for rounding ties."""
        return {RoundingRule(step.attributes["rule"]) for step in self.steps if "rule" in step.attributes}

    @property
    def rescale(self) -> set[RescaleRule]:
        """The rules for rescaling by factors that are no powers of two; empty if there are none."""
        return {RescaleRule(step.attributes["rescale"]) for step in self.steps if "rescale" in step.attributes}

    def with_rounding(self, rounding: Rounding) -> Program:
        """The program with other rules for ties in its shifts and for its inputs; tables stay as they are.

        Compare its results with those of the program to see how many values depend on the rule of a device.

        Args:
            rounding: One rule, or rules by patterns of operation names, of which the first that matches counts;
                others keep theirs.

        Raises:
            QuantizerError: no such rule, or a pattern that matches no name.
        """
        ties = TieRules("Program", rounding)

        def changed(step: Step) -> Step:
            if "rule" not in step.attributes:
                return step
            rule = ties.of(step.name, RoundingRule(step.attributes["rule"]))
            return replace(step, attributes={**step.attributes, "rule": rule.value})

        steps = [changed(step) for step in self.steps]
        ties.check_used()
        return replace(self, steps=steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file atomically: constants as tensors, the rest as JSON in its metadata.

        Raises:
            ImportError: safetensors is not installed; the message says how to install it.
        """
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        program_file.write(path, parts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Program:
        """Load a program that ``save`` wrote.

        Raises:
            QuantizerError: the file holds no program.
            ImportError: safetensors is not installed; the message says how to install it.
        """
        return cls(**program_file.read(path))

    def __str__(self) -> str:
        """A line on each: operations, accumulators, float islands, notes."""
        sums = self.accumulators()
        worst = max(sums, key=lambda each: each.worst, default=None)
        islands = self.float_operations
        constants = sum(map(np.size, self.constants.values()))
        lines = [f"{_counted(len(self.steps), 'operation')}, {_counted(constants, 'constant')}."]
        if worst is not None:
            lines.append(f"Accumulators need at most {worst.worst} bits, in {worst.name}.")
        lines.append(f"In float: {', '.join(islands)}." if islands else "All operations are on integers.")
        return "\n".join([*lines, *self.notes])

    def samples(self, inputs: Any) -> Iterator[list[np.ndarray]]:
        """The inputs of ``run`` one sample at a time.

        Raises:
            QuantizerError: other inputs than the network has.
        """
        arrays = [np.asarray(getattr(leaf, "detach", lambda leaf=leaf: leaf)()) for leaf in _leaves(inputs)]
        wanted = [self.values[index] for index in self.inputs]
        if len(arrays) != len(wanted):
            rule, advice = _counted(len(wanted), "array"), "pass an array or tensor for each input"
            raise invalid("Program.run", "inputs", rule, len(arrays), advice)
        for array, value in zip(arrays, wanted, strict=True):
            if array.shape[1:] != tuple(value.shape[1:]):
                rule = f"of shape (samples, {', '.join(map(str, value.shape[1:]))})"
                raise invalid("Program.run", "input", rule, array.shape, "pass what the model takes")
            rule, kinds = ("numbers", "fiub") if value.dtype.startswith("float") else ("whole numbers", "iub")
            if array.dtype.kind not in kinds:
                raise invalid("Program.run", "input", f"of {rule}", array.dtype.name, "pass what the model takes")
        counts = {len(array) for array in arrays if array.ndim} - {0}
        if len(counts) != 1:
            shapes, rule = [array.shape for array in arrays], "of as many samples each, at least one"
            raise invalid("Program.run", "inputs", rule, shapes, "pass what the model takes")
        for at in range(counts.pop()):
            parts = [array[at : at + 1] if array.ndim else array for array in arrays]
            yield [part.astype(value.dtype) for part, value in zip(parts, wanted, strict=True)]

    def _held(
        self, sample: Sequence[np.ndarray], keep: Any = (), instead: Mapping[int, np.ndarray] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Position and value of the results, and of what is to be kept; later steps read ``instead``, where it is."""
        kept = {*self.outputs.values(), *keep}
        made: dict[int, np.ndarray] = {}
        last = {each: at for at, step in enumerate(self.steps) for each in step.inputs}
        held: dict[Any, np.ndarray] = {**self.constants, **dict(zip(self.inputs, sample, strict=True))}
        for at, step in enumerate(self.steps):
            try:
                result = computed(step, [held[each] for each in step.inputs], self.values)
            except QuantizerError:
                raise
            except Exception as error:  # anything that numpy raises for a file from elsewhere
                told = f"{step.name}: {step.operation} cannot be computed: {type(error).__name__}: {error}"
                raise QuantizerError(f"{told}. Rebuild the program with to_integer.") from error
            held[step.output] = result if instead is None else instead.get(step.output, result)
            made |= {step.output: result} if step.output in kept else {}
            for each in step.inputs:
                if last[each] == at and each not in kept:
                    held.pop(each, None)
        for index in kept:
            yield index, made[index] if index in made else held[index]


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value) for leaf in _leaves(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value] if hasattr(value, "shape") else []
