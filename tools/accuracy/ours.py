"""This package on the accuracy page: LSQ alone, and the training recommended in docs/training.md."""

from __future__ import annotations

from itertools import count

import torch
import trainable_quantizers_torch as tq
from cases import Case, calibration
from data import Data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training import Budget, train


def prepared(network: nn.Module, data: Data, case: Case, fold: bool | str) -> nn.Module:
    """Calibrated, with everything else as it is by default."""
    recipe = tq.Recipe(
        tq.WeightsScheme(method=case.method, num_bits=case.weight_bits),
        tq.ActivationsScheme(method=case.method, num_bits=case.activation_bits),
    )
    return tq.prepare(network, recipe, calibration(data), fold_batch_norm=fold, verbose=False)


def lsq(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """LSQ alone; batch norms are folded before training."""
    model = prepared(network, data, case, True)
    train(model, data, budget, seed)
    return tq.convert(model.eval())


def norms_kept(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """LSQ alone, with batch norms that go on; only where there are any."""
    model = prepared(network, data, case, False)
    train(model, data, budget, seed)
    return tq.convert(model.eval())


def folded_at_conversion(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """LSQ alone, with batch norms that fold at conversion, and are frozen for the last third of the steps."""
    model, steps = prepared(network, data, case, "at_conversion"), count(1)
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]

    def freeze() -> None:
        if next(steps) == 2 * budget.steps // 3:
            for norm in norms:
                norm.eval()

    train(model, data, budget, seed, after_step=freeze)
    return tq.convert(model.eval())


def ours(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """LSQ, thresholds in the log2 domain, norms that go on, the float network as a teacher, averages at the end."""
    recipe = tq.Recipe(
        tq.WeightsScheme(method=case.method, num_bits=case.weight_bits, threshold_domain=tq.ThresholdDomain.LOG2),
        tq.ActivationsScheme(
            method=case.method, num_bits=case.activation_bits, threshold_domain=tq.ThresholdDomain.LOG2
        ),
    )
    model = tq.prepare(network, recipe, calibration(data), verbose=False)
    distillation = tq.Distillation(network, model, temperature=1.0)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs, distance = distillation(x)
        return distance + cross_entropy(outputs, y)

    train(model, data, budget, seed, loss, lambda: averaged.update_parameters(model))
    result = averaged.module
    if case.network == "depthwise":
        tq.reestimate_batch_norm(result, data.x[:2048].split(budget.batch))
    return tq.convert(result.eval())
