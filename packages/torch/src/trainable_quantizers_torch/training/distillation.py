"""Distillation: the float model teaches the quantized one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.training.distillation import DistillationTerms, check_shapes, matched_layers

from trainable_quantizers_torch.layers.copies import copied
from trainable_quantizers_torch.prepare import find_summary


class Distillation(nn.Module):
    """A student model with a distillation loss: a call returns the outputs of the student and the loss.

    loss = distance of the outputs + weight · mean over ``layers`` of Σ(y - y_float)²/Σy_float²

    With a temperature T the outputs z are logits, and their distance is T²·KL(softmax(z_float/T) ‖ softmax(z/T)), the
    mean over all but the axis of classes. Without one it is Σ(z - z_float)²/Σz_float². Several outputs, in tuples or
    dictionaries, add up. The sums are computed in float32 at least.

    The gradient goes to the student alone, thresholds and ranges included. The teacher is a copy, in evaluation at all
    times, that moves to other devices with this module and is part of its state: save the student. Wrap this module
    in ``torch.compile`` or ``DistributedDataParallel``, or pass a student that is wrapped.

    Args:
        teacher: The float model; stays as it is.
        student: The model that ``prepare`` made from it.
        layers: Names of modules, as in the teacher, whose results are compared too: as later layers read them, so
            quantized where the student quantizes them.
        temperature: T, for outputs that are logits.
        weight: Of the layers beside the outputs.
        class_axis: The axis of the outputs that counts classes, with a temperature.

    Raises:
        QuantizerError: no modules, a name that not both have, a temperature or weight out of range; in a call,
            outputs of other shapes than those of the teacher.

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531; layers as in Romero et al. 2014, arXiv 1412.6550.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> x = torch.randn(16, 4)
        >>> model = prepare(network, Recipe.preset("power_of_two_4bit"), [x], verbose=False)
        >>> distillation = Distillation(network, model, layers=("1",), temperature=4.0)
        >>> outputs, loss = distillation(x)
        >>> loss.backward()
        >>> torch.equal(outputs, model(x)), loss.item() > 0
        (True, True)
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        layers: Sequence[str] = (),
        temperature: float | None = None,
        weight: float = 1.0,
        class_axis: int = -1,
    ) -> None:
        super().__init__()
        self.terms = DistillationTerms(temperature, weight, class_axis)
        for argument, model in (("teacher", teacher), ("student", student)):
            if not isinstance(model, nn.Module):
                raise invalid("Distillation", argument, "a torch.nn.Module", model, "pass the network itself")
        self.student, self.teacher = student, copied(teacher, "Distillation").requires_grad_(False).eval()
        theirs, ours = _modules(self.teacher), _modules(student)
        pairs = matched_layers(layers, theirs, ours, find_summary(student))
        self._taps = {name: (_Tap(ours[other]), _Tap(theirs[name])) for name, other in pairs.items()}

    def train(self, mode: bool = True) -> Distillation:
        """Training mode for the student; the teacher stays in evaluation."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, torch.Tensor]:
        """The outputs of the student and the loss, for the arguments of the student."""
        for pair in self._taps.values():
            for tap in pair:
                tap.results = []
        outputs = self.student(*args, **kwargs)
        with torch.no_grad():
            wanted = self.teacher(*args, **kwargs)
        pairs = _paired("outputs", outputs, wanted)
        temperature, axis = self.terms.temperature, self.terms.class_axis
        divergences = [] if temperature is None else [_divergence(*pair, temperature, axis) for pair in pairs]
        loss = torch.stack(divergences).sum() if divergences else _squared_error(pairs)
        if self._taps:
            errors = [
                _squared_error(_paired(f"results of {name!r}", ours.taken(), theirs.taken()))
                for name, (ours, theirs) in self._taps.items()
            ]
            loss = loss + self.terms.weight * torch.stack(errors).mean()
        return outputs, loss


class _Tap:
    """Keeps the results of a module while a distillation runs; copies of the model keep nothing."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self.results: list[Any] | None = None
        if module is not None:
            module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.results is not None:
            self.results.append(result)

    def taken(self) -> list[Any] | None:
        results, self.results = self.results, None
        return results

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tap, ()


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by name; in a compiled or parallel model also by their names within it."""
    found = dict(model.named_modules())
    for name, module in list(found.items()):
        found.setdefault(name.replace("_orig_mod.", "").removeprefix("module."), module)
    return {name: module for name, module in found.items() if name}


def _paired(what: str, given: Any, wanted: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The floating tensors of two results, side by side, in float32 at least."""
    ours, theirs = (
        {
            f"output{_pytree.keystr(path)}": leaf
            for path, leaf in _pytree.tree_flatten_with_path(result)[0]
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        }
        for result in (given, wanted)
    )
    shapes = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (ours, theirs))
    check_shapes(what, *shapes)
    pairs = zip(ours.values(), theirs.values(), strict=True)
    return [tuple(each.to(torch.promote_types(each.dtype, torch.float32)) for each in pair) for pair in pairs]


def _divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float, axis: int) -> torch.Tensor:
    """T²·KL(softmax(z_float/T) ‖ softmax(z/T)), the mean over all but the axis of classes."""
    given, wanted = (F.log_softmax(each / temperature, axis) for each in (student, teacher))
    divergence = F.kl_div(given, wanted, reduction="none", log_target=True).sum(axis)
    return divergence.mean() * temperature**2


def _squared_error(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Σ(y - y_float)²/Σy_float²."""
    error = sum((one - other).square().sum() for one, other in pairs)
    return error / (sum(other.square().sum() for _, other in pairs) + 1e-30)
