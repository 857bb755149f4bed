"""An integer program as one C99 file: static arrays, integers only, no library but ``stdint.h``."""

from __future__ import annotations

import math
import re

import numpy as np

from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.c_moves import MOVING
from trainable_quantizers_core.integer.c_statements import COMPUTING
from trainable_quantizers_core.integer.c_writer import Writer
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.step import Step, Value

_STATEMENTS = COMPUTING | MOVING
_NO_COMMENT = r"[^\w .,:;()\[\]'-]"
"""Characters of names that could end a comment, or begin another."""
_TIES = {
    RoundingRule.HALF_EVEN: "quotient & 1",
    RoundingRule.HALF_UP: "1",
    RoundingRule.HALF_AWAY: "quotient >= 0",
}


def c_source(program: Program, name: str = "model") -> str:
    r"""The C99 source of a program.

    ``{name}_run`` takes quantized inputs and gives quantized results; a comment at its head states their grids.

    Args:
        program: One of integers alone.
        name: Prefix of the function's name, a C identifier.

    Raises:
        QuantizerError: the program computes something in float, or rescales in float; or the name is no C identifier.

    Examples:
        >>> program = Program([Value((1, 2), "float32"), Value((1, 2), low=-8, high=7)],
        ...     [Step("quantize", "x", (0,), 1, {"step": 1.0, "low": -8, "high": 7, "rule": "half_up"})],
        ...     {}, [0], {"output": 1})
        >>> print("\n".join(c_source(program).splitlines()[-4:]))
        void model_run(const int8_t *input, int8_t *output)
        {
            for (int i = 0; i < 2; i++) output[i] = input[i];
        }
    """
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is None:
        raise invalid("c_source", "name", "a C identifier", name, "use letters, digits and underscores")
    islands = program.float_operations
    islands += [key for key, index in program.outputs.items() if program.values[index].dtype == "float32"]
    if islands:
        advice = "these operations have no definition in integers; run the program in numpy, or change the network"
        raise invalid("c_source", "program", "of integers alone", islands, advice)
    if RescaleRule.FLOAT32 in program.rescale:
        advice = "make it by to_integer(deployed, example, rescale='fixed_point')"
        raise invalid("c_source", "rescale", "'fixed_point' where steps are no powers of two", "float32", advice)
    return _source(program, name)


def given_to(program: Program) -> list[int]:
    """Positions of the values that the function of a program takes: quantized inputs, then those that are integers."""
    quantized = [step.output for step in program.steps if step.operation == "quantize"]
    return quantized + [index for index in program.inputs if program.values[index].dtype != "float32"]


def _source(program: Program, name: str) -> str:
    to = Writer(program)
    parameters = _inputs(program, to)
    _write(program, to)
    names = _outputs(program)
    for key, index in program.outputs.items():
        parameter = names[key]
        parameters.append(f"{to.type(index)}_t *{parameter}")
        count = math.prod(program.values[index].shape)
        to.line(f"for (int i = 0; i < {count}; i++) {parameter}[i] = {to.place[index]}[i];")
    named = set(re.findall(r"\w+", "\n".join(to.lines)))
    constants = [_constant(to, key, value) for key, value in program.constants.items() if key in named]
    arrays = [f"static {to.types[each]}_t {each}[{size}];" for each, size in to.sizes.items()]
    head = [*_comment(program, name, to), "#include <stdint.h>", "", *constants, *arrays, ""]
    helpers = [_HELPER.format(rule=rule.value, tie=_TIES[rule]) for rule in sorted(to.ties)]
    signature = f"void {name}_run({', '.join(parameters)})"
    return "\n".join([*head, *helpers, signature, "{", *to.lines, "}", ""])


def _inputs(program: Program, to: Writer) -> list[str]:
    indices = given_to(program)
    names = ["input"] if len(indices) == 1 else [f"input_{at}" for at in range(len(indices))]
    to.place.update(zip(indices, names, strict=True))
    return [f"const {to.type(index)}_t *{name}" for index, name in zip(indices, names, strict=True)]


def _outputs(program: Program) -> dict[str, str]:
    """Names of the parameters by those of the outputs; all begin alike, so that none is another name of the file."""
    if len(program.outputs) == 1:
        return dict.fromkeys(program.outputs, "output")
    found: dict[str, str] = {}
    for key in program.outputs:
        name = re.sub(r"\W+", "_", key, flags=re.ASCII).strip("_")
        name = name if name.startswith("output") else f"output_{name}"
        found[key] = f"{name}_{len(found)}" if name in found.values() else name
    return found


def _write(program: Program, to: Writer) -> None:
    """The statements of all steps; an array is free again behind the last that reads it."""
    last: dict[int, int] = {}
    roots: dict[int, int] = {}
    for at, step in enumerate(program.steps):
        read = [roots.get(each, each) for each in step.inputs if isinstance(each, int)]
        if step.operation == "reshape":
            roots[step.output] = read[0]
        last.update(dict.fromkeys(read, at))
    last.update({roots.get(index, index): len(program.steps) for index in program.outputs.values()})
    for at, step in enumerate(program.steps):
        _statements(to, step)
        for index in {roots.get(each, each) for each in step.inputs if isinstance(each, int)}:
            if last[index] == at:
                to.release(index)


def _statements(to: Writer, step: Step) -> None:
    if step.operation == "quantize":
        return
    to.line(f"/* {step.operation}: {re.sub(_NO_COMMENT, '_', step.name)} */")
    if step.operation == "reshape":
        to.place[step.output] = to.read(step.inputs[0])
        return
    to.buffer(step.output)
    _STATEMENTS[step.operation](to, step, step.attributes)


def _constant(to: Writer, key: str, array: np.ndarray) -> str:
    flat = array.reshape(-1)  # once: of a transposed matrix it is a copy
    rows = [", ".join(map(str, flat[at : at + 20].tolist())) for at in range(0, array.size, 20)]
    body = ",\n".join(f"    {row}" for row in rows)
    return f"static const {to.type(key)}_t {key}[{array.size}] = {{\n{body}\n}};"


def _comment(program: Program, name: str, to: Writer) -> list[str]:
    meaning = "value = q * scale * 2^exponent / divisor, scale 1 where none is given"
    lines = [f"/* {name}_run computes one sample with integers; {meaning}.", " *"]
    for step in program.steps:
        if step.operation == "quantize":
            rule = f"clip(round(x / {step.attributes['step']!r})), ties {step.attributes['rule']}"
            lines.append(f" * {to.place[step.output]}: {_words(program.values[step.output])}; q = {rule}")
    lines += [
        f" * {re.sub(_NO_COMMENT, '_', key)}: {_words(program.values[index])}" for key, index in program.outputs.items()
    ]
    return [*lines, " */"]


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
