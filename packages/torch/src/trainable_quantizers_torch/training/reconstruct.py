"""Reconstruction without labels: weights fitted so that each layer or block gives its float output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_core.deploy.self_check import quantizers_set_aside
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.training.reconstruct import STRENGTH, Reconstruction, check_biases

from trainable_quantizers_torch.calibration.batches import batches_of, modes_kept, run_on
from trainable_quantizers_torch.deploy.convert import quantizers_in
from trainable_quantizers_torch.inventory import quantizers_of
from trainable_quantizers_torch.layers.copies import copied, trainable
from trainable_quantizers_torch.layers.stateless import call_with
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.prepare import find_summary
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.training.blocks import Call, learn_block, relative_error


@trainable
def reconstruct(
    model: nn.Module, data: Any, steps: int = 1000, learning_rate: float = 1e-2, blocks: Sequence[str] = ()
) -> nn.Module:
    """Fit the weights of each layer or block so that it gives its float output, in place; returns the model.

    It needs no labels. Layers and blocks are fitted in execution order, each on the outputs of the quantized layers
    before it, to minimize Σ(y - y_float)²/Σy_float², where y_float is the result in the float model:

    - A layer outside of blocks rounds each weight up or down: soft rounding (the training method AdaRound) learns, with
      0.01·mean(1 - |2h - 1|^β) added. The weights become values of levels, which every quantizer keeps.
    - The layers of a block learn together: weights move further than to the next level, with the straight-through
      gradient of their quantizers, and biases move as well. Thresholds and ranges stay. One step of Adam moves a weight
      or bias by about ``learning_rate``·Δ of its channel; the rate falls to 0 along half a cosine.

    The model is ready to ``convert``, or to train on from there. A layer or block that does not improve is left as is.

    Args:
        model: A model from ``prepare``, with the weights of the float model, and biases that were not corrected.
        data: Batches as for ``prepare``; some hundred samples are enough. They are kept in memory, and for one layer or
            block at a time what it reads and gives.
        steps: Steps for each layer or block, each on one batch.
        learning_rate: Of Adam.
        blocks: Names of modules that are blocks: a residual block, say, or a layer that is to learn like one. Of a
            pattern such as ``blocks.*`` each match is a block.

    Raises:
        QuantizerError: no layer with quantized weights, norms that fold at conversion, layers that are converted,
            weights that are frozen, biases that were corrected, no data, a batch that the model does not take, or a
            block that there is not, or that a batch calls twice. The weights are as they were then.

    Source: Nagel et al. 2020, arXiv 2004.10568; blocks as in Li et al. 2021, arXiv 2102.05426.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> _ = torch.manual_seed(0)
        >>> block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        >>> network = nn.Sequential(nn.Linear(4, 8), block, nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> model = prepare(network, Recipe({"num_bits": 2}, {"num_bits": 8}), [x], verbose=False)
        >>> before = (model(x) - network(x)).square().mean()
        >>> model = reconstruct(model, [x], steps=50, learning_rate=0.1, blocks=["1"])
        >>> bool((model(x) - network(x)).square().mean() <= before)
        True
    """
    how = Reconstruction(steps, learning_rate, blocks)
    reference = copied(model, "reconstruct") if isinstance(model, nn.Module) else model
    quantizers = [each.quantizer for each in quantizers_of(reference)]
    wrappers = {name: each for name, each in _wrappers(model) if _rounds(each)}
    if not wrappers:
        advice = "pass what prepare returned, with weights of layers among what it quantized"
        raise invalid("reconstruct", "model", "one with quantized weights", type(model).__name__, advice)
    for name, each in wrappers.items():
        if each.folded_norm is not None:
            rule, norm = "without a batch norm that folds at conversion", type(each.folded_norm.module).__name__
            advice = "prepare with fold_batch_norm=True: the weights that it fits are those that norms are part of"
            raise invalid("reconstruct", f"layer {name!r}", rule, norm, advice)
    for name, each in model.named_modules():
        if isinstance(each, (PytorchQuantizationWrapper, PytorchActivationQuantizationHolder)) and not quantizers_in(
            each
        ):
            raise invalid(
                "reconstruct", f"module {name!r}", "one that trains", type(each).__name__, "reconstruct before convert"
            )
    how.check_quantizers(found for each in wrappers.values() for found in each.weights_quantizers.values())
    together = how.found_blocks([name for name, _ in model.named_modules()], wrappers, ".")
    alone = set(wrappers).difference(*together.values())
    found = find_summary(model)
    check_biases(found.rows if found else ())
    batches = list(batches_of(data, "reconstruct"))
    with quantizers_set_aside(quantizers, [each for _, each in _wrappers(reference)]), modes_kept(model):
        counts = _in_order(reference, [*together, *alone], batches)
        for name in together.keys() & counts.keys():
            how.check_calls(name, counts[name])
        for name, count in counts.items():
            calls = _calls(model, reference, name, count, batches)
            model.eval()
            unit = model.get_submodule(name)
            if name in alone:
                _round(unit, calls, how)
            else:
                learn_block(unit, [wrappers[each] for each in together[name]], calls, how)
    return model


def _wrappers(model: Any) -> Iterator[tuple[str, PytorchTrainableQuantizationWrapper]]:
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return (pair for pair in modules if isinstance(pair[1], PytorchTrainableQuantizationWrapper))


def _rounds(wrapper: PytorchTrainableQuantizationWrapper) -> bool:
    return wrapper.is_str_attr and all(
        isinstance(each, PytorchRangeQuantizer) and each.enabled for each in wrapper.weights_quantizers.values()
    )


def _in_order(model: nn.Module, names: Any, batches: list[Any]) -> dict[str, int]:
    """How often modules are called on the first batch, by name, in the order of their first calls."""
    counts: dict[str, int] = {}

    def see(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1

    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            stack.enter_context(module.register_forward_hook(lambda *_, name=name: see(name)))
        for _ in run_on(model, batches[:1], "reconstruct"):
            pass
    return counts


class _Reached(Exception):  # noqa: N818 - no error
    """Raised after the last call that is wanted."""


class _Until(nn.Module):
    """A model whose run stops after the last call of one of its modules; ``calls`` has arguments and results."""

    def __init__(self, model: nn.Module, module: nn.Module, count: int) -> None:
        super().__init__()
        self.module, self.watched, self.count = model, module, count
        self.calls: list[Call] = []

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Run the model."""
        wanted = len(self.calls) + self.count

        def see(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self.calls.append((args, kwargs, result))
            if len(self.calls) == wanted:
                raise _Reached

        with self.watched.register_forward_hook(see, with_kwargs=True), suppress(_Reached):
            self.module(*args, **kwargs)


def _calls(model: nn.Module, reference: nn.Module, name: str, count: int, batches: list[Any]) -> list[Call]:
    """The inputs of a layer or block in the quantized model, and its outputs in float."""
    ours, theirs = (_Until(each, each.get_submodule(name), count) for each in (model, reference))
    for call, _ in run_on(theirs, batches, "reconstruct"):
        model.eval()
        call(ours)
    pairs = zip(ours.calls, theirs.calls, strict=True)
    return [(args, kwargs, result) for (args, kwargs, _), (_, _, result) in pairs]


def _round(wrapper: PytorchTrainableQuantizationWrapper, calls: list[Call], how: Reconstruction) -> None:
    soft = {}
    for key, weight, quantizer in wrapper.get_weights_vars():
        soft[key] = twin = how.softly_rounding(quantizer, BasePytorchTrainableQuantizer)
        scratch = nn.Module().to(weight.device)
        twin.initialize_quantization(weight.shape, "weight", scratch)
        scratch.to(weight.device)
        for name in quantizer.specification.initial:
            twin.write_variable(name, quantizer.read_variable(name))
    weights = {key: weight.detach() for key, weight, _ in wrapper.get_weights_vars()}
    with torch.no_grad():
        nearest = wrapper.get_quantized_weights()
    size = sum(weight.numel() for weight in weights.values())
    alphas = [twin.get_quantizer_variable("alpha") for twin in soft.values()]
    optimizer = torch.optim.Adam(alphas, how.learning_rate)
    with torch.enable_grad():
        for step in range(how.steps):
            rounded = {key: twin(weights[key], True) for key, twin in soft.items()}
            loss = _error(wrapper, nearest | rounded, calls[step % len(calls)])
            penalty = sum(twin.rounding_regularizer(weights[key]) for key, twin in soft.items())
            gradients = torch.autograd.grad(loss + STRENGTH / size * penalty, alphas)
            for alpha, gradient in zip(alphas, gradients, strict=True):
                alpha.grad = gradient
            optimizer.step()
            for twin in soft.values():
                twin.advance()
    with torch.no_grad():
        hard = {key: twin(weights[key], False) for key, twin in soft.items()}
        before, after = (sum(_error(wrapper, given, call) for call in calls) for given in (nearest, nearest | hard))
        if after < before:
            for key, weight in weights.items():
                weight.copy_(hard[key])


def _error(wrapper: PytorchTrainableQuantizationWrapper, weights: dict[Any, torch.Tensor], call: Call) -> torch.Tensor:
    """Σ(y - y_float)²/Σy_float² of one call with given weights."""
    args, kwargs, wanted = call
    args = (list(args),) if wrapper.is_inputs_as_list else args
    options = {**wrapper.op_call_kwargs, **kwargs}
    return relative_error(call_with(wrapper.layer, weights, (*args, *wrapper.op_call_args), options), wanted)
