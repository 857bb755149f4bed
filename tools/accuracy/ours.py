"""This package on the accuracy page: LSQ alone, and the training that docs/training.md describes."""

from __future__ import annotations

import torch
import trainable_quantizers_torch as tq
from cases import Case, calibration
from data import Data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training import Budget, train


def lsq(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int, fold: bool = True) -> nn.Module:
    """LSQ alone; batch norms are folded before training unless ``fold`` is false."""
    recipe = tq.Recipe(
        tq.WeightsScheme(method=case.method, num_bits=case.weight_bits),
        tq.ActivationsScheme(method=case.method, num_bits=case.activation_bits),
    )
    model = tq.prepare(network, recipe, calibration(data), fold_batch_norm=fold, verbose=False)
    train(model, data, budget, seed)
    return tq.convert(model.eval())


def norms_kept(network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> nn.Module:
    """LSQ alone, with batch norms that go on; only where there are any."""
    return lsq(network, data, case, budget, seed, fold=False)


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
