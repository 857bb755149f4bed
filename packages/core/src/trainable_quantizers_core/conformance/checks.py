"""All checks, one function for each promise of the contract, and the quantizers and cases they apply to.

Each raises an ``AssertionError`` that names what was broken.
"""

from __future__ import annotations

from collections.abc import Callable

from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.conformance.accumulator import check_bias, check_limit
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.life_cycle import (
    check_config_round_trip,
    check_disabled,
    check_invalid_input,
    check_reload_then_train,
)
from trainable_quantizers_core.conformance.mixture import check_mixture
from trainable_quantizers_core.conformance.oscillations import check_oscillations
from trainable_quantizers_core.conformance.output import (
    check_channel_axis,
    check_compiled,
    check_dtype_and_shape,
    check_grid,
    check_idempotent,
    check_output,
    check_ties,
    check_train_is_deploy,
)
from trainable_quantizers_core.conformance.parameters import (
    check_frozen,
    check_gradient_to_input,
    check_gradient_to_parameters,
    check_log2_domain,
    check_range_order,
    check_recovery,
    check_update_takes_effect,
)
from trainable_quantizers_core.conformance.soft_rounding import check_soft_rounding
from trainable_quantizers_core.conformance.subject import Check, learns_width, rounds_softly
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer, constructor_parameters
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer

COMPILED_CHECKS: tuple[Check, ...] = (check_compiled, check_soft_rounding, check_mixture)
EAGER_CHECKS: tuple[Check, ...] = (
    check_output,
    check_grid,
    check_idempotent,
    check_gradient_to_input,
    check_gradient_to_parameters,
    check_frozen,
    check_update_takes_effect,
    check_recovery,
    check_range_order,
    check_train_is_deploy,
    check_dtype_and_shape,
    check_channel_axis,
    check_config_round_trip,
    check_reload_then_train,
    check_disabled,
    check_invalid_input,
    check_ties,
    check_log2_domain,
    check_soft_rounding,
    check_mixture,
    check_oscillations,
    check_bias,
    check_limit,
)


def _has_sums(quantizer_class: type[BaseTrainableQuantizer], case: Case) -> bool:
    """Whether the sums of weights lie on a grid. One axis is enough: it is that of the channels of a dense layer."""
    powers = case.power_of_two and issubclass(quantizer_class, RangeQuantizer)
    return powers and not case.is_activation and case.axis in (None, 0) and case.num_bits <= 8


def _can_oscillate(quantizer_class: type[BaseTrainableQuantizer], case: Case) -> bool:
    """Whether oscillations of weights can be followed, which is the same for every width."""
    follows = issubclass(quantizer_class, RangeQuantizer) and "oscillations" in constructor_parameters(quantizer_class)
    return follows and not case.is_activation and not case.tabled and case.num_bits == 4


APPLIES: dict[Check, Callable[[type[BaseTrainableQuantizer], Case], bool]] = {
    check_range_order: lambda _, case: case.uniform,
    check_log2_domain: lambda _, case: case.log2,
    check_channel_axis: lambda _, case: case.axis is not None,
    check_bias: _has_sums,
    check_oscillations: _can_oscillate,
    check_limit: lambda quantizer_class, case: not case.tabled and _has_sums(quantizer_class, case),
    check_ties: lambda quantizer_class, case: (
        case.is_activation
        and case.method is QuantizationMethod.POWER_OF_TWO
        and issubclass(quantizer_class, RangeQuantizer)
    ),
}
"""Which quantizers and cases a promise is made to; to all of them where nothing is said."""


def applies(check: Check, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> bool:
    """Whether a promise is made to a quantizer and case, so that its check has something to look at.

    Soft rounding knows the shape of its weight, so that other inputs cannot probe it; what it adds to the forward of
    STE has a check of its own. So has the mixture of quantizers to which all promises are made.
    """
    own = {check_soft_rounding: rounds_softly, check_mixture: learns_width}
    special = next((each for each, is_its in own.items() if is_its(quantizer_class)), None)
    if special or check in own:
        without_inputs = (check_config_round_trip, check_disabled, check_invalid_input)
        promised = (special, *without_inputs, *((check_log2_domain,) if case.log2 else ()))
        return check in promised and bool(special)
    return check not in APPLIES or APPLIES[check](quantizer_class, case)
