"""Checks of construction, saving and loading."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import SHAPE, Case
from trainable_quantizers_core.conformance.comparison import (
    refused,
    same_bits,
    same_gradients,
    that,
)
from trainable_quantizers_core.conformance.probes import probe_inputs
from trainable_quantizers_core.conformance.subject import Subject, rounds_softly, updated
from trainable_quantizers_core.enums import VariableGroup
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer


def check_config_round_trip(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """Config -> dict -> JSON -> config loses nothing, the freeze flag included."""
    for frozen in (False, True):
        quantizer = quantizer_class(case.config(), freeze_quant_params=frozen)
        text = json.dumps(quantizer.get_config(), allow_nan=False)
        restored = quantizer_class.from_config(json.loads(text))
        again = json.dumps(restored.get_config(), sort_keys=True)
        that(restored.quantization_config == quantizer.quantization_config, "the configuration changed")
        that(restored.freeze_quant_params is frozen, "the freeze flag was lost")
        that(
            again == json.dumps(quantizer.get_config(), sort_keys=True),
            "get_config differs after a round trip",
        )


def check_reload_then_train(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """Reloaded variables are used by the next forward, its gradients and the conversion."""
    subject = Subject(adapter, quantizer_class, case)
    subject.assign(updated(subject.values))
    fresh = quantizer_class.from_config(subject.quantizer.get_config())
    adapter.save_and_load(subject.quantizer, subject.layer, fresh, case.tensor_shape)
    before, _ = subject.run()
    subject.quantizer = fresh
    after, expected = subject.run()
    same_bits(before.output, after.output, "the output changed by reloading", subject.x)
    same_gradients(after, expected)
    same_bits(before.grad_x, after.grad_x, "dL/dx changed by reloading", subject.x)


def check_disabled(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Disabled, the quantizer is the identity, bit for bit, with nothing to train."""
    field = "activation" if case.is_activation else "weights"
    quantizer = quantizer_class(case.config(**{f"enable_{field}_quantization": False}))
    adapter.build(quantizer, case.tensor_shape)
    x = probe_inputs(case, case.initial_values(), infinite=True)
    same_bits(adapter.read(quantizer(adapter.tensor(x), True)), x, "a disabled quantizer changes its input", x)
    assert not quantizer.get_trainable_variables(VariableGroup.QPARAMS), "a disabled quantizer has trainable variables"


def check_invalid_input(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Configurations that leave no grid, and tensors that are no floats, are refused with a ``QuantizerError``."""
    prefix = "activation" if case.is_activation else "weights"
    params = f"{prefix}_quantization_params"
    good = getattr(case.config(), params)
    bad_numbers = {key: float("nan") for key in good if key != "is_signed"}
    changes: dict[str, dict[str, Any]] = {
        "1 bit": {f"{prefix}_n_bits": 1},
        "17 bits": {f"{prefix}_n_bits": 17},
        "no parameters": {params: {}},
        "an unknown key": {params: {**good, "treshold": 1.0}},
        "NaN": {params: {**good, **bad_numbers}},
        "text": {params: {**good, **dict.fromkeys(bad_numbers, "1.0")}},
        "an unknown domain": {"threshold_domain": "log10"},
        "a gradient that changes its sign": {"ewgs": 2.0},
    }
    if case.uniform:
        changes["crossed ends"] = {params: {"range_min": 1.0, "range_max": -1.0}}
        changes["a logarithm of no threshold"] = {"threshold_domain": "log2"}
    else:
        changes["a negative threshold"] = {params: {**good, "threshold": -1.0}}
        changes["a zero threshold"] = {params: {**good, "threshold": 0.0}}
    if case.tabled or rounds_softly(quantizer_class):
        changes["a rounding error where there is none"] = {"ewgs": 0.3}
    for what, change in changes.items():
        refused(what, partial(_build, quantizer_class, case, change))
    if case.axis is not None:
        refused("a wrong axis", lambda: adapter.build(quantizer_class(case.config(weights_channels_axis=7)), SHAPE))
        shape = tuple(length + 1 for length in SHAPE)
        refused("a wrong number of channels", lambda: adapter.build(quantizer_class(case.config()), shape))
    subject = Subject(adapter, quantizer_class, case)
    refused("integers", lambda: subject.quantizer(adapter.tensor(np.ones((2, 2), np.int32), "int32"), True))


def _build(quantizer_class: type[BaseTrainableQuantizer], case: Case, change: dict[str, Any]) -> Any:
    return quantizer_class(case.config(**change))
