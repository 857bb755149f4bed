"""Compiles the C file of a program and runs it on this machine."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.c_source import c_source, given_to
from trainable_quantizers_core.integer.c_writer import integer_type
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.step import computed

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-shared", "-fPIC")


def compiled(program: Program, name: str = "model") -> Callable[..., Any]:
    """The C code of a program as a function, built by the compiler ``$CC`` or ``cc``; called like ``Program.run``.

    Args:
        program: On integers alone.
        name: Of the function in C.

    Raises:
        QuantizerError: there is no compiler, or it does not take the file; or as of ``c_source``.
    """
    source = c_source(program, name)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        advice = "install one, or set CC; c_source(program) gives the text without building it"
        raise invalid("compiled", "compiler", "on the PATH", compiler[0], advice)
    with tempfile.TemporaryDirectory() as folder:
        written, built = Path(folder) / f"{name}.c", Path(folder) / f"{name}.so"
        written.write_text(source)
        done = subprocess.run([*compiler, *FLAGS, "-o", str(built), str(written)], capture_output=True, text=True)
        if done.returncode:
            advice = "it is a fault of this package: report it with the program"
            raise invalid("compiled", "source", "one that the compiler takes", done.stderr[:1000], advice)
        function = getattr(ctypes.CDLL(str(built)), f"{name}_run")  # stays loaded without the file
    function.restype = None
    steps = {step.output: step for step in program.steps if step.operation == "quantize"}

    taken = given_to(program)
    outputs = list(program.outputs.values())

    def compute(sample: list[np.ndarray]) -> dict[int, np.ndarray]:
        held = dict(zip(program.inputs, sample, strict=True))
        for index, step in steps.items():
            held[index] = computed(step, [held[step.inputs[0]]], program.values)  # type: ignore[index]
        given = [np.ascontiguousarray(held[index], integer_type(program.values[index])) for index in taken]
        made = [np.zeros(program.values[index].shape, integer_type(program.values[index])) for index in outputs]
        function(*(ctypes.c_void_p(each.ctypes.data) for each in (*given, *made)))
        return {index: each.astype(np.int64) for index, each in zip(outputs, made, strict=True)}

    return lambda *inputs, **named: program.joined((inputs, named), compute)
