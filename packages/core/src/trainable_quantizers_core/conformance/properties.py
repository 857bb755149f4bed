"""Property tests of the contract: Hypothesis draws parameters, numbers of bits, shapes, axes and inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case, all_cases
from trainable_quantizers_core.conformance.comparison import same_as_contract, same_bits
from trainable_quantizers_core.conformance.oracle.effective_range import effective_range
from trainable_quantizers_core.conformance.subject import Subject
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer

THRESHOLDS = st.floats(2.0**-20, 2.0**20, width=32)
LOGARITHMS = st.floats(-20, 20, width=32)
ENDS = st.floats(-(2.0**20), 2.0**20, width=32)
FRACTIONS = st.floats(-1.5, 1.5, width=32)
INPUTS = st.floats(width=32, allow_nan=False)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, dict[str, np.ndarray], np.ndarray]:
    """A case, raw values for its parameters, and inputs; none of learned widths, which mix quantizers of others."""
    alone = [each for each in TrainingMethod if each is not TrainingMethod.DQA]
    case = draw(st.sampled_from(list(all_cases(tuple(alone)))))
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=5, max_side=5))
    axis = None if case.axis is None else draw(st.integers(-len(shape), len(shape) - 1))
    case = replace(case, num_bits=draw(st.integers(2, 5 if case.tabled else 16)), shape=shape, axis=axis)
    elements = {"threshold": LOGARITHMS if case.log2 else THRESHOLDS, "table": FRACTIONS}
    values = {
        name: draw(arrays.arrays(np.float32, value.shape, elements=elements.get(name, ENDS)))
        for name, value in case.initial_values().items()
    }
    span = effective_range(case, values)
    largest = max(np.abs(span.low).max(), np.abs(span.high).max())
    around = arrays.arrays(np.float32, shape, elements=st.floats(-2, 2, width=32))
    scaled = around.map(lambda array: array * np.float32(largest))
    x = draw(st.one_of(scaled, arrays.arrays(np.float32, shape, elements=INPUTS)))
    return case, values, x


def check_arbitrary(
    adapter: FrameworkAdapter,
    quantizer_class: type[BaseTrainableQuantizer],
    case: Case,
    values: dict[str, np.ndarray],
    x: np.ndarray,
) -> None:
    """Output and gradients are those of the contract, and the output is the deployed one."""
    subject = Subject(adapter, quantizer_class, case)
    subject.assign(values)
    subject.x = x
    same_as_contract(*subject.run(), x)
    same_bits(subject.output(), subject.deployed(), "the deployed output differs", x)
