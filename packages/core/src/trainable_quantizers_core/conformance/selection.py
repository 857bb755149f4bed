"""The selection of trials: the default ones, and those that only ``everything`` runs because others cover them."""

from __future__ import annotations

from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.checks import (
    check_channel_axis,
    check_config_round_trip,
    check_disabled,
    check_dtype_and_shape,
    check_frozen,
    check_invalid_input,
    check_reload_then_train,
)
from trainable_quantizers_core.conformance.subject import Check
from trainable_quantizers_core.enums import TrainingMethod

WITHOUT_WIDTH: tuple[Check, ...] = (
    check_frozen,
    check_dtype_and_shape,
    check_channel_axis,
    check_config_round_trip,
    check_reload_then_train,
    check_disabled,
    check_invalid_input,
)
"""Promises to which a width is a number like any other."""
_METHODS = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM)
_AXES = (0, 1, -1)


def worth_compiling(adapter: FrameworkAdapter, case: Case) -> bool:
    """Compilers see the grid as constants: the cases of 4 bits, per tensor or channel, reach every code path.

    Cheap compilers get every axis at 4 bits, and every number of bits per tensor. Soft rounding is compiled several
    times, and has one path, as tables have. DQA runs what LSQ compiles, and adds one path.
    """
    if case.tabled:
        wanted = case.axis == 0 or (case.is_activation and not case.signed)
        return wanted and (case.power_of_two or adapter.compiles_fast)
    if case.identifier == TrainingMethod.DQA:
        return case.power_of_two and (case.axis == 0 or (case.axis is None and not adapter.compiles_fast))
    if case.identifier is TrainingMethod.ADAROUND:
        return case.axis == 0 and (case.power_of_two or adapter.compiles_fast)
    if adapter.compiles_fast:
        return case.num_bits == 4 or case.axis is None
    return case.num_bits == 4 and case.axis in (None, 0)


def one_of_structure(adapter: FrameworkAdapter, case: Case) -> bool:
    """One case of each graph that a compiler sees: of each method per channel and per tensor, by STE or by LSQ.

    Those per tensor are activations, of which one is unsigned and one, where compiling is cheap, of 16 bits. Slow
    compilers get the largest graphs per tensor too: the rules for gradients and the candidates of DQA.
    """
    fast = adapter.compiles_fast
    if case.log2 or case.ewgs:
        return fast or case.is_activation
    if case.identifier == TrainingMethod.DQA:
        return case.power_of_two and case.axis == (0 if fast else None)
    if case.tabled or case.identifier is TrainingMethod.ADAROUND:
        return case.power_of_two and case.axis == 0
    method = _METHODS.index(case.method)
    learner = TrainingMethod.STE if (method + case.is_activation) % 2 else TrainingMethod.LSQ
    if case.identifier in (TrainingMethod.STE, TrainingMethod.LSQ) and case.identifier != learner:
        return False
    if case.is_activation:
        return case.signed == bool(method) and case.num_bits == (16 if fast and case.uniform else 4)
    return case.num_bits == 4 and case.axis == (_AXES[method] if fast else 0)


def worth_checking(adapter: FrameworkAdapter, check: Check, case: Case) -> bool:
    """Whether a trial adds information: some widths and axes are only other numbers in what another trial shows.

    - Promises that widths do not touch are checked at 4 bits, all others at every width, there per tensor and along
      the first axis.
    - Where large tensors have ways of their own, those compute 4 bits, and other widths of what LSQ learns per tensor.
    - Compilers get one case of each structure.
    """
    if adapter.compiled:
        return one_of_structure(adapter, case)
    if case.num_bits == 4 or case.log2 or case.ewgs:
        return True
    if check in WITHOUT_WIDTH:
        return False
    if adapter.reference:
        return case.axis in (None, 0)
    return case.axis is None and case.identifier is not TrainingMethod.STE
