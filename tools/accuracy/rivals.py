"""The other packages on the accuracy page, each used as its documentation says."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from cases import Case, calibration
from data import Data
from networks import Read
from torch import nn
from training import Budget, train


def brevitas(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """Scales that are learned, in the log2 domain where they are powers of two, from the least squared error."""
    from brevitas.graph.calibrate import calibration_mode

    model = copy.deepcopy(network)
    _replace(model, case, _below_zero(model, data))
    with torch.no_grad(), calibration_mode(model.eval()):
        for batch in calibration(data):
            model(batch)
    train(model, data, budget, seed)
    return model.eval()


def _below_zero(model: nn.Module, data: Data) -> set[str]:
    """Names of modules whose results have a sign on the calibration data."""
    found = set()

    def watch(name: str) -> Any:
        return lambda module, given, result: found.add(name) if result.min() < 0 else None

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        for batch in calibration(data):
            model.eval()(batch)
    for hook in hooks:
        hook.remove()
    return found


def _replace(model: nn.Module, case: Case, signed: set[str]) -> None:
    """Layers of Brevitas in place of PyTorch's, with the same weights."""
    import brevitas.nn as qnn
    from brevitas.quant import fixed_point, scaled_int

    home, kind = (fixed_point, "FixedPoint") if case.method == "power_of_two" else (scaled_int, "Float")
    weights = {
        "weight_quant": getattr(home, f"Int8WeightPerChannel{kind}MSE"),
        "weight_bit_width": case.weight_bits,
        "weight_narrow_range": False,
        "bias_quant": None,
    }
    unsigned, with_sign = (getattr(home, f"{sign}8ActPerTensor{kind}MSE") for sign in ("Uint", "Int"))
    for name, module in list(model.named_modules()):
        bias = getattr(module, "bias", None)
        if isinstance(module, nn.Conv2d):
            sizes = (module.in_channels, module.out_channels, module.kernel_size)
            options = (module.stride, module.padding, module.dilation, module.groups)
            new = qnn.QuantConv2d(*sizes, *options, bias=bias is not None, **weights)
        elif isinstance(module, nn.Linear):
            new = qnn.QuantLinear(module.in_features, module.out_features, bias is not None, **weights)
        elif isinstance(module, nn.ReLU):
            new = qnn.QuantReLU(act_quant=unsigned, bit_width=case.activation_bits)
        elif isinstance(module, Read):
            rule = with_sign if name in signed else unsigned
            new = qnn.QuantIdentity(act_quant=rule, bit_width=case.activation_bits)
        else:
            continue
        if getattr(module, "weight", None) is not None:
            new.load_state_dict(module.state_dict(), strict=False)
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, new)


def torchao(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """Linear layers alone, with 8-bit inputs whose ranges follow from each token; all else stays in float."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_
    from torchao.quantization.qat import QATConfig

    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, f"int{case.weight_bits}"),
        weight_granularity=PerAxis(0),
    )
    model = copy.deepcopy(network)
    quantize_(model, QATConfig(config, step="prepare"))
    train(model, data, budget, seed)
    quantize_(model, QATConfig(config, step="convert"))
    return model.eval()


def toolkit(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """The Model Compression Toolkit: norms folded before, LSQ for weights and activations, finalized."""
    model, qat = _toolkit(network, data, case)
    train(model, data, budget, seed)
    return qat.pytorch_quantization_aware_training_finalize_experimental(model).eval()


def _toolkit(network: nn.Module, data: Data, case: Case) -> tuple[nn.Module, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    own = import_module("toolkit")
    package = own.import_toolkit(own.OWN)
    lsq = import_module(own.INFRASTRUCTURE).TrainingMethod.LSQ

    def batches() -> Iterator[list[Any]]:
        return iter([[batch.numpy()] for batch in calibration(data)])

    bits = (case.weight_bits, case.activation_bits)
    model, _ = package.qat.pytorch_quantization_aware_training_init_experimental(
        copy.deepcopy(network).eval(),
        batches,
        core_config=package.core.CoreConfig(),
        qat_config=package.qat.QATConfig(lsq, lsq),
        target_platform_capabilities=own.target(case.method.upper(), "per channel", *bits),
    )
    return model, package.qat
