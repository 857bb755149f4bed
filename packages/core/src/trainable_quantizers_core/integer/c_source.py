"""An integer program as one C99 file: static arrays, integers only, no library but ``stdint.h``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.program import Program, Step, Value

_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "int64")
_TIES = {
    RoundingRule.HALF_EVEN: "quotient & 1",
    RoundingRule.HALF_UP: "1",
    RoundingRule.HALF_AWAY: "quotient >= 0",
}


def c_source(program: Program, name: str = "model") -> str:
    r"""The C99 source of a program.

    ``{name}_run`` takes quantized inputs and gives quantized results; a comment at its head says on which grids.

    Args:
        program: On integers alone.
        name: Of the function, a C identifier.

    Raises:
        QuantizerError: the program computes something in float, or rescales in float; or the name is none of C.

    Examples:
        >>> program = Program([Value((1, 2), "float32"), Value((1, 2), low=-8, high=7)],
        ...     [Step("quantize", "x", (0,), 1, {"step": 1.0, "zero": 0, "low": -8, "high": 7, "rule": "half_up"})],
        ...     {}, [0], {"output": 1})
        >>> print("\n".join(c_source(program).splitlines()[-4:]))
        void model_run(const int8_t *input, int8_t *output)
        {
            for (int i = 0; i < 2; i++) output[i] = input[i];
        }
    """
    if re.fullmatch(r"[A-Za-z_]\w*", name) is None:
        raise invalid("c_source", "name", "a C identifier", name, "use letters, digits and underscores")
    islands = program.float_operations
    islands += [key for key, index in program.outputs.items() if program.values[index].dtype == "float32"]
    if islands:
        advice = "these operations have no definition in integers; run the program in numpy, or change the network"
        raise invalid("c_source", "program", "of integers alone", islands, advice)
    if RescaleRule.FLOAT32 in program.rescale:
        advice = "make it by to_integer(deployed, example, rescale='fixed_point')"
        raise invalid("c_source", "rescale", "'fixed_point' where steps are no powers of two", "float32", advice)
    return _Writer(program, name).source()


def given_to(program: Program) -> list[int]:
    """Positions of the values that the function of a program takes: quantized inputs, then those that are integers."""
    quantized = [step.output for step in program.steps if step.operation == "quantize"]
    return quantized + [index for index in program.inputs if program.values[index].dtype != "float32"]


def integer_type(value: Value) -> str:
    """The smallest type of C that holds a value, as numpy calls it."""
    return _fitting(value.low, value.high) if value.dtype == "integer" else value.dtype


class _Writer:
    """Writes each step as loops over static arrays, which values share when their lives do not overlap."""

    def __init__(self, program: Program, name: str) -> None:
        self._program = program
        self._name = name
        self._place: dict[int | str, str] = {}
        self._sizes: dict[str, int] = {}
        self._types: dict[str, str] = {}
        self._free: list[str] = []
        self._lines: list[str] = []
        self._ties: set[RoundingRule] = set()

    def source(self) -> str:
        program = self._program
        parameters = self._inputs()
        last: dict[int, int] = {}
        roots: dict[int, int] = {}
        for at, step in enumerate(program.steps):
            read = [roots.get(each, each) for each in step.inputs if isinstance(each, int)]
            if step.operation == "reshape":
                roots[step.output] = read[0]
            last.update(dict.fromkeys(read, at))
        last.update({roots.get(index, index): len(program.steps) for index in program.outputs.values()})
        for at, step in enumerate(program.steps):
            self._write(step)
            for index in {roots.get(each, each) for each in step.inputs if isinstance(each, int)}:
                if last[index] == at and self._place.get(index) in self._sizes:
                    self._free.append(self._place[index])
        for key, index in program.outputs.items():
            parameter = key if len(program.outputs) > 1 else "output"
            parameter = re.sub(r"\W+", "_", parameter).strip("_")
            parameters.append(f"{self._type(index)}_t *{parameter}")
            count = math.prod(program.values[index].shape)
            self._line(f"for (int i = 0; i < {count}; i++) {parameter}[i] = {self._place[index]}[i];")
        named = set(re.findall(r"\w+", "\n".join(self._lines)))
        constants = [self._constant(key, value) for key, value in program.constants.items() if key in named]
        arrays = [f"static {self._types[each]}_t {each}[{size}];" for each, size in self._sizes.items()]
        head = [*self._comment(), "#include <stdint.h>", "", *constants, *arrays, ""]
        helpers = [_HELPER.format(rule=rule.value, tie=_TIES[rule]) for rule in sorted(self._ties)]
        signature = f"void {self._name}_run({', '.join(parameters)})"
        return "\n".join([*head, *helpers, signature, "{", *self._lines, "}", ""])

    # Names and types

    def _comment(self) -> list[str]:
        program = self._program
        meaning = "value = q * scale * 2^exponent / divisor, scale 1 where none is given"
        lines = [f"/* {self._name}_run computes one sample with integers; {meaning}.", " *"]
        for step in program.steps:
            if step.operation == "quantize":
                rule = f"clip(round(x / {step.attributes['step']!r})), ties {step.attributes['rule']}"
                lines.append(f" * {self._place[step.output]}: {_words(program.values[step.output])}; q = {rule}")
        lines += [f" * {key}: {_words(program.values[index])}" for key, index in program.outputs.items()]
        return [*lines, " */"]

    def _inputs(self) -> list[str]:
        indices = given_to(self._program)
        names = ["input"] if len(indices) == 1 else [f"input_{at}" for at in range(len(indices))]
        self._place.update(zip(indices, names, strict=True))
        return [f"const {self._type(index)}_t *{name}" for index, name in zip(indices, names, strict=True)]

    def _type(self, key: int | str) -> str:
        if isinstance(key, str):
            array = self._program.constants[key]
            return _fitting(int(array.min(initial=0)), int(array.max(initial=0)))
        return integer_type(self._program.values[key])

    def _constant(self, key: str, array: np.ndarray) -> str:
        flat = array.reshape(-1)  # once: of a transposed matrix it is a copy
        rows = [", ".join(map(str, flat[at : at + 20].tolist())) for at in range(0, array.size, 20)]
        body = ",\n".join(f"    {row}" for row in rows)
        return f"static const {self._type(key)}_t {key}[{array.size}] = {{\n{body}\n}};"

    def _buffer(self, index: int) -> str:
        kind, count = self._type(index), math.prod(self._program.values[index].shape)
        free = next((each for each in self._free if self._types[each] == kind), None)
        if free is None:
            free = f"v{len(self._sizes)}"
            self._types[free] = kind
        else:
            self._free.remove(free)
        self._sizes[free] = max(count, self._sizes.get(free, 1))
        self._place[index] = free
        return free

    def _shape(self, key: int | str) -> tuple[int, ...]:
        return self._program.values[key].shape if isinstance(key, int) else self._program.constants[key].shape

    def _read(self, key: int | str) -> str:
        return key if isinstance(key, str) else self._place[key]

    # Statements

    def _line(self, text: str, depth: int = 0) -> None:
        self._lines.append("    " * (depth + 1) + text)

    def _loops(
        self, sizes: Sequence[int], body: Callable[[list[str], int], None], letter: str = "i", depth: int = 0
    ) -> None:
        """Loops over all indices; an axis of one has the index 0."""
        names = []
        for at, size in enumerate(sizes):
            names.append(f"{letter}{at}" if size > 1 else "0")
            if size > 1:
                self._line(f"for (int {names[-1]} = 0; {names[-1]} < {size}; {names[-1]}++)", depth)
                depth += 1
        self._line("{", depth)
        body(names, depth + 1)
        self._line("}", depth)

    def _write(self, step: Step) -> None:
        if step.operation == "quantize":
            return
        self._line(f"/* {step.operation}: {step.name.replace('*/', '')} */")
        if step.operation == "reshape":
            self._place[step.output] = self._read(step.inputs[0])
            return
        output = self._buffer(step.output)
        _STATEMENTS[step.operation](self, step, output, step.attributes)

    def _elementwise(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        shape = self._shape(step.output)

        def body(names: list[str], depth: int) -> None:
            operands = [
                f"{self._read(each)}[{_at(names, _strides(self._shape(each), len(shape)))}]" for each in step.inputs
            ]
            target = f"{output}[{_at(names, _strides(shape, len(shape)))}]"
            self._line(f"{target} = {_EXPRESSIONS[step.operation](*operands)};", depth)

        self._loops(shape, body)

    def _lookup(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        x, table = map(self._read, step.inputs)
        count = math.prod(self._shape(step.output))
        self._line(f"for (int i = 0; i < {count}; i++) {output}[i] = {table}[{x}[i] - ({attributes['low']})];")

    def _requantize(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        shape, rule = self._shape(step.output), RoundingRule(attributes["rule"])
        self._ties.add(rule)
        low, high, divisor = attributes["low"], attributes["high"], attributes["divisor"]

        def body(names: list[str], depth: int) -> None:
            shift = (
                str(attributes["shift"]) if "shift" in attributes else f"{step.inputs[1]}[{names[attributes['axis']]}]"
            )
            at = _at(names, _strides(shape, len(shape)))
            given = f"{self._read(step.inputs[0])}[{at}], {shift}, {divisor}"
            self._line(f"const int64_t q = round_{rule.value}({given});", depth)
            self._line(f"{output}[{at}] = q < ({low}) ? ({low}) : q > ({high}) ? ({high}) : q;", depth)

        self._loops(shape, body)

    def _rescale(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        shape, rule, axis = self._shape(step.output), RoundingRule(attributes["rule"]), attributes["axis"]
        self._ties.add(rule)
        x, factor, shift = map(self._read, step.inputs)
        low, high = attributes["low"], attributes["high"]

        def body(names: list[str], depth: int) -> None:
            channel, at = "0" if axis is None else names[axis], _at(names, _strides(shape, len(shape)))
            product = f"(int64_t){x}[{at}] * {factor}[{channel}]"
            self._line(f"const int64_t q = round_{rule.value}({product}, {shift}[{channel}], 1);", depth)
            self._line(f"{output}[{at}] = q < ({low}) ? ({low}) : q > ({high}) ? ({high}) : q;", depth)

        self._loops(shape, body)

    def _convolution(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        x, weight, *bias = step.inputs
        made, per_group, *window = self._shape(weight)
        shape, given = self._shape(step.output), self._shape(x)
        order = (lambda sizes: [sizes[0], sizes[-1], *sizes[1:-1]]) if attributes["channels_last"] else list
        out_strides, in_strides = order(_strides(shape, len(shape))), order(_strides(given, len(given)))
        spatial, sizes = order(shape)[2:], order(given)[2:]
        each = made // attributes["groups"]
        wide = self._sum_type(step)

        def sums(names: list[str], depth: int) -> None:
            sample, channel, *place = names
            self._line(f"{wide} sum = {f'{bias[0]}[{channel}]' if bias else 0};", depth)

            def inside(inner: list[str], deeper: int) -> None:
                part, *at = inner
                seen = self._seen(place, at, sizes, attributes, deeper)
                group = f"({channel} / {each} * {per_group} + {part})"
                read = _at([sample, group, *seen], in_strides)
                factor = _at([channel, part, *at], _strides((made, per_group, *window), len(window) + 2))
                self._line(f"sum += ({wide}){weight}[{factor}] * {self._read(x)}[{read}];", deeper)

            self._loops([per_group, *window], inside, "k", depth)
            self._line(f"{output}[{_at(names, out_strides)}] = sum;", depth)

        self._loops([shape[0], made, *spatial], sums)

    def _seen(
        self, place: Sequence[str], at: Sequence[str], sizes: Sequence[int], attributes: Mapping[str, Any], depth: int
    ) -> list[str]:
        """What a place of a window sees along each spatial axis; padding is passed over."""
        gaps = attributes.get("dilation", [1] * len(sizes))
        steps = zip(place, attributes["strides"], at, gaps, attributes["padding"], strict=True)
        found = []
        for axis, (name, stride, inner, gap, (before, after)) in enumerate(steps):
            found.append(_at([name, inner], [stride, gap]))
            if before or after:
                self._line(f"const int y{axis} = {found[-1]} - {before};", depth)
                self._line(f"if (y{axis} < 0 || y{axis} >= {sizes[axis]}) continue;", depth)
                found[-1] = f"y{axis}"
        return [f"({each})" if " " in each else each for each in found]

    def _sum_type(self, step: Step) -> str:
        """A type that holds every partial sum."""
        x, weight, *bias = step.inputs
        value = self._program.values[x]  # type: ignore[index]
        most = max(abs(value.low), abs(value.high))
        if isinstance(weight, int):
            other = self._program.values[weight]
            most *= max(abs(other.low), abs(other.high)) * self._shape(x)[-1]
        else:
            array = np.abs(self._program.constants[weight])
            flat = array.reshape(len(array), -1).sum(1) if step.operation == "convolution" else array.sum(-2)
            most *= int(flat.max())
        most += int(np.abs(self._program.constants[bias[0]]).max()) if bias else 0  # type: ignore[index]
        return "int32_t" if most < 2**31 else "int64_t"

    def _matmul(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        x, other, *bias = step.inputs
        shape, rank = self._shape(step.output), len(self._shape(step.output))
        one, two = _strides(self._shape(x), rank), _strides(self._shape(other), rank)
        length = self._shape(x)[-1]
        wide = self._sum_type(step)

        def sums(names: list[str], depth: int) -> None:
            self._line(f"{wide} sum = {f'{bias[0]}[{names[-1]}]' if bias else 0};", depth)
            left = _at([*names[:-1], "k"], one)
            right = _at([*names[:-2], "k", names[-1]], two)
            product = f"({wide}){self._read(x)}[{left}] * {self._read(other)}[{right}]"
            self._line(f"for (int k = 0; k < {length}; k++) sum += {product};", depth)
            self._line(f"{output}[{_at(names, _strides(shape, rank))}] = sum;", depth)

        self._loops(shape, sums)

    def _pool(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        (x,) = step.inputs
        shape, given = self._shape(step.output), self._shape(x)
        order = (lambda sizes: [sizes[0], sizes[-1], *sizes[1:-1]]) if attributes["channels_last"] else list
        out_strides, in_strides = order(_strides(shape, len(shape))), order(_strides(given, len(given)))
        largest = step.operation == "max_pool"
        kind, sizes = self._type(step.output), order(given)[2:]

        def pooled(names: list[str], depth: int) -> None:
            start = str(self._program.values[x].low) if largest else "0"  # type: ignore[index]
            self._line(f"{kind}_t found = {start};", depth)

            def inside(at: list[str], deeper: int) -> None:
                seen = self._seen(names[2:], at, sizes, attributes, deeper)
                read = f"{self._read(x)}[{_at([*names[:2], *seen], in_strides)}]"
                self._line(f"if ({read} > found) found = {read};" if largest else f"found += {read};", deeper)

            self._loops(attributes["window"], inside, "k", depth)
            self._line(f"{output}[{_at(names, out_strides)}] = found;", depth)

        self._loops(order(shape), pooled)

    def _reduce(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        (x,) = step.inputs
        given, axes = self._shape(x), list(attributes["axes"])
        kept = [1 if axis in axes else size for axis, size in enumerate(given)]
        strides, kind = _strides(given, len(given)), self._type(step.output)
        largest = step.operation == "largest"

        def reduced(names: list[str], depth: int) -> None:
            start = str(self._program.values[x].low) if largest else "0"  # type: ignore[index]
            self._line(f"{kind}_t found = {start};", depth)

            def inside(inner: list[str], deeper: int) -> None:
                places = dict(zip(axes, inner, strict=True))
                read = f"{self._read(x)}[{_at([places.get(axis, name) for axis, name in enumerate(names)], strides)}]"
                self._line(f"if ({read} > found) found = {read};" if largest else f"found += {read};", deeper)

            self._loops([given[axis] for axis in axes], inside, "k", depth)
            self._line(f"{output}[{_at(names, _strides(kept, len(kept)))}] = found;", depth)

        self._loops(kept, reduced)

    # Moves

    def _copy(self, step: Step, sizes: Sequence[int], target: str, source: str) -> None:
        """Loops over ``sizes`` that copy; target and source are of names i0, i1, ... put in by ``format``."""
        self._loops(
            sizes, lambda names, depth: self._line(f"{target.format(*names)} = {source.format(*names)};", depth)
        )

    def _moved(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        x, shape = step.inputs[0], self._shape(step.output)
        given, rank = self._shape(x), len(shape)
        strides, offset = _strides(given, len(given)), 0
        if step.operation == "transpose":
            strides = [strides[axis] for axis in attributes["axes"]]
        elif step.operation == "part":
            offset = sum(start * stride for start, stride in zip(attributes["starts"], strides, strict=True))
            strides = [stride * step_size for stride, step_size in zip(strides, attributes["steps"], strict=True)]
        else:
            strides = _strides(given, rank)
        slots = [f"{{{axis}}}" for axis in range(rank)]
        source = f"{self._read(x)}[{offset} + {_at(slots, strides)}]"
        self._copy(step, shape, f"{output}[{_at(slots, _strides(shape, rank))}]", source)

    def _around(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        x, shape = step.inputs[0], self._shape(step.output)
        given, rank = self._shape(x), len(shape)
        strides, offset = _strides(shape, rank), 0
        if step.operation == "pad":
            offset = sum(before * stride for (before, _), stride in zip(attributes["padding"], strides, strict=True))
        else:
            factors = dict(zip(attributes["axes"], attributes["factors"], strict=True))
            strides = [stride * factors.get(axis, 1) for axis, stride in enumerate(strides)]
        self._line(f"for (int i = 0; i < {math.prod(shape)}; i++) {output}[i] = {attributes.get('value', 0)};")
        slots = [f"{{{axis}}}" for axis in range(rank)]
        source = f"{self._read(x)}[{_at(slots, _strides(given, rank))}]"
        self._copy(step, given, f"{output}[{offset} + {_at(slots, strides)}]", source)

    def _concatenate(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        shape, axis, begin = self._shape(step.output), attributes["axis"], 0
        strides = _strides(shape, len(shape))
        slots = [f"{{{at}}}" for at in range(len(shape))]
        for each in step.inputs:
            given = self._shape(each)
            source = f"{self._read(each)}[{_at(slots, _strides(given, len(given)))}]"
            self._copy(step, given, f"{output}[{begin * strides[axis]} + {_at(slots, strides)}]", source)
            begin += given[axis]

    def _take(self, step: Step, output: str, attributes: Mapping[str, Any]) -> None:
        x, indices = step.inputs
        axis, shape, given = attributes["axis"], self._shape(step.output), self._shape(x)
        count = len(self._shape(indices))
        slots = [f"{{{at}}}" for at in range(len(shape))]
        index = _at(slots[axis : axis + count], _strides(self._shape(indices), count))
        places = [*slots[:axis], f"{self._read(indices)}[{index}]", *slots[axis + count :]]
        source = f"{self._read(x)}[{_at(places, _strides(given, len(given)))}]"
        self._copy(step, shape, f"{output}[{_at(slots, _strides(shape, len(shape)))}]", source)


_STATEMENTS: dict[str, Callable[[_Writer, Step, str, Mapping[str, Any]], None]] = {
    **dict.fromkeys(("add", "maximum", "minimum", "multiply", "subtract", "where"), _Writer._elementwise),
    **dict.fromkeys(("broadcast", "part", "transpose"), _Writer._moved),
    **dict.fromkeys(("largest", "total"), _Writer._reduce),
    **dict.fromkeys(("max_pool", "sum_pool"), _Writer._pool),
    **dict.fromkeys(("pad", "spread"), _Writer._around),
    **dict.fromkeys(("align", "rescale"), _Writer._rescale),
    "concatenate": _Writer._concatenate,
    "convolution": _Writer._convolution,
    "lookup": _Writer._lookup,
    "matmul": _Writer._matmul,
    "requantize": _Writer._requantize,
    "take": _Writer._take,
}
_EXPRESSIONS: dict[str, Callable[..., str]] = {
    "add": lambda a, b: f"{a} + {b}",
    "maximum": lambda a, b: f"{a} > {b} ? {a} : {b}",
    "minimum": lambda a, b: f"{a} < {b} ? {a} : {b}",
    "multiply": lambda a, b: f"(int64_t){a} * {b}",
    "subtract": lambda a, b: f"{a} - {b}",
    "where": lambda condition, a, b: f"{condition} ? {a} : {b}",
}
_HELPER = """/* The integer nearest to n * 2^-shift / divisor; ties {rule}. */
static int64_t round_{rule}(int64_t n, int shift, int64_t divisor)
{{
    int64_t quotient, rest;
    if (shift < 0) {{ n *= (int64_t)1 << -shift; shift = 0; }}
    divisor *= (int64_t)1 << shift;
    quotient = n / divisor;
    if (n % divisor < 0) quotient--;
    rest = n - quotient * divisor;
    return quotient + (rest > divisor - rest || (rest == divisor - rest && ({tie})));
}}
"""


def _fitting(low: int, high: int) -> str:
    return next(each for each in _TYPES if np.iinfo(each).min <= low and high <= np.iinfo(each).max)


def _strides(shape: Sequence[int], rank: int) -> list[int]:
    """Steps in memory along each of ``rank`` axes; 0 along those that are repeated."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step if size > 1 else 0)
        step *= size
    return [0] * (rank - len(shape)) + strides[::-1]


def _at(names: Sequence[str], strides: Sequence[int]) -> str:
    """The place in memory of indices."""
    terms = [
        name if stride == 1 else f"{name} * {stride}"
        for name, stride in zip(names, strides, strict=True)
        if stride and name != "0"
    ]
    return " + ".join(terms) or "0"


def _words(value: Value) -> str:
    shape = "x".join(map(str, value.shape))
    if value.dtype != "integer":
        return f"{shape} of {value.dtype}"
    exponent = str(value.exponent)
    if not isinstance(value.exponent, int):
        exponent = f"{list(value.exponent)} along axis {value.axis}"
    scale = (
        "" if value.scale == 1 else f"scale {value.scale if isinstance(value.scale, float) else list(value.scale)}, "
    )
    return f"{shape}, {scale}exponent {exponent}, divisor {value.divisor}"
