"""Batches of data for calibration, verification and reports."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core.calibration.batches import Batches, at_most
from trainable_quantizers_core.progress import track

_DATA = Batches((torch.Tensor,), "a tensor", "a dictionary of keywords", "a DataLoader")
batches_of, first_batches = _DATA.of, _DATA.first
batch_explained, in_words = _DATA.explained, _DATA.in_words


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the mode of each module afterwards: a frozen batch norm of a model in training stays frozen."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def run_on(
    model: nn.Module,
    data: Any,
    owner: str,
    argument: str = "data",
    verbose: bool = False,
    limit: int | None = None,
) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """What a model gives for each batch, in evaluation and without gradients; and how another is called on it.

    Args:
        model: The model.
        data: Batches.
        owner: The function that takes them, for messages.
        argument: The name of ``data`` there.
        verbose: Whether to show progress.
        limit: How many batches to take at most.

    Raises:
        QuantizerError: ``data`` is missing, no iterable, or empty, or the model does not take one of its batches.
    """
    count = 0
    with modes_kept(model), torch.no_grad():
        model.eval()
        for batch in at_most(track(batches_of(data, owner, argument), owner, verbose), limit, owner):
            positional, keywords = arguments_of(model, batch)
            with batch_explained(owner, argument, batch, count):
                result = model(*positional, **keywords)
            yield _caller(model, batch), result
            count += 1
    if not count:
        raise _DATA.none(owner, argument, data)


def _caller(model: nn.Module, batch: Any) -> Callable[[Any], Any]:
    def call(function: Any) -> Any:
        positional, keywords = arguments_of(model, batch)
        return function(*positional, **keywords)

    return call


def arguments_of(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward from a batch; the tensors are copies, which it may change.

    A tuple gives as many as the forward requires, or all if it takes any number. A dictionary gives keywords,
    unless the forward takes one argument and knows none of the keys: then it is that argument.
    """
    batch = moved(model, batch)
    parameters = _parameters(model)
    names = {parameter.name for parameter in parameters}
    required = [parameter for parameter in parameters if _is_required(parameter)]
    if isinstance(batch, Mapping):
        any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        if len(required) == 1 and not any_keyword and not names & set(batch):
            return (batch,), {}
        return (), dict(batch)
    if type(batch) not in (tuple, list):  # a PackedSequence is one argument
        return (batch,), {}
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return tuple(batch), {}
    return tuple(batch)[: max(1, len(required))], {}


def names_of_tensors(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int, str]:
    """Names of the tensors among the arguments, by identity: ``x``, ``batch.image``, ``inputs.0``."""
    parameters = _parameters(model)
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    given: dict[str, Any] = dict(zip(named, args, strict=False))
    if len(args) > len(named):
        given[variadic or "input"] = list(args[len(named) :])
    found: dict[int, str] = {}
    for path, leaf in _pytree.tree_flatten_with_path({**given, **kwargs})[0]:
        if isinstance(leaf, torch.Tensor):
            found.setdefault(id(leaf), name_of(path))
    return found


def name_of(path: tuple[Any, ...]) -> str:
    """The path to a nested value: ``batch.image``, ``inputs.0``."""
    return ".".join(str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step)))) for step in path)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of the forward; for a wrapper of a model, those of the model."""
    wrapped = getattr(model, "_orig_mod", getattr(model, "module", None))  # compiled, averaged, parallel
    if isinstance(wrapped, nn.Module) and wrapped is not model:
        return _parameters(wrapped)
    return list(inspect.signature(model.forward).parameters.values())


def _is_required(parameter: inspect.Parameter) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return parameter.kind in kinds and parameter.default is inspect.Parameter.empty


def moved(model: nn.Module, batch: Any) -> Any:
    """A copy of the batch, its tensors on the device of the model."""
    return _to(next((tensor.device for tensor in model.parameters()), torch.device("cpu")), batch)


def _to(device: torch.device, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value.to(device)._replace(data=value.data.to(device, copy=True))
    if isinstance(value, Mapping):
        return {key: _to(device, item) for key, item in value.items()}
    return type(value)(_to(device, item) for item in value) if type(value) in (tuple, list) else value
