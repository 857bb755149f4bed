"""Batches of data, as calibration, verification and reports take them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.progress import track

from trainable_quantizers_torch.graph.trace import modes_kept


def run_on(
    model: nn.Module, data: Any, owner: str, argument: str = "data", verbose: bool = False
) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """What a model gives for each batch, in evaluation and without gradients; and how another is called on it.

    Raises:
        QuantizerError: ``data`` is missing, no iterable, or empty, or the model does not take one of its batches.
    """
    count = 0
    with modes_kept(model), torch.no_grad():
        model.eval()
        for batch in track(batches_of(data, owner, argument), owner, verbose):
            positional, keywords = arguments_of(model, batch)
            try:
                result = model(*positional, **keywords)
            except Exception as error:  # whatever the user's forward raises
                rule = "batches that the model takes: a tensor, a tuple of inputs, or a dictionary of keywords"
                advice = f"the model says: {type(error).__name__}: {error}"
                where = f" in batch {count}"
                raise invalid(owner, argument, rule, in_words(batch), advice, where) from error
            yield _caller(positional, keywords), result
            count += 1
    if not count:
        advice = "an iterator that was used before is empty: pass a list or a DataLoader"
        raise invalid(owner, argument, "at least one batch", data, advice)


def batches_of(data: Any, owner: str, argument: str = "data") -> Iterable[Any]:
    """One batch, or an iterable of them, as the latter.

    Raises:
        QuantizerError: neither.
    """
    if isinstance(data, (torch.Tensor, Mapping)):
        return [data]
    if not isinstance(data, Iterable):
        advice = "pass a DataLoader or a list of batches: activations are measured on data"
        raise invalid(owner, argument, "an iterable of batches", data, advice)
    return data


def names_of_arguments(model: nn.Module, data: Any) -> tuple[list[str], Any]:
    """Names of the arguments that a batch gives to the model: what its forward requires, and what dictionaries name.

    Returned with the data, of which the first batch was looked at; an iterator that it was taken from is whole again.
    """
    batch: Any = None
    if isinstance(data, Mapping):
        batch = data
    elif isinstance(data, Iterable) and not isinstance(data, torch.Tensor):
        batches = iter(data)
        batch = next(batches, None)
        data = itertools.chain([] if batch is None else [batch], batches) if batches is data else data
    wanted = {*_required(model), *(batch if isinstance(batch, Mapping) else ())}
    in_order = [name for name in inspect.signature(model.forward).parameters if name in wanted]
    return [*in_order, *(name for name in wanted if name not in in_order)], data


def _caller(positional: tuple[Any, ...], keywords: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda function: function(*positional, **keywords)


def arguments_of(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward from a batch: of a tuple, as many as it requires."""
    batch = moved(model, batch)
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if type(batch) not in (tuple, list):  # a PackedSequence is one argument
        return (batch,), {}
    return tuple(batch)[: max(1, len(_required(model)))], {}


def _required(model: nn.Module) -> list[str]:
    """Names of the positional arguments without a default; of what wraps a model, those of the model."""
    wrapped = getattr(model, "_orig_mod", getattr(model, "module", None))  # compiled, averaged, parallel
    if isinstance(wrapped, nn.Module):
        return _required(wrapped)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.items()
    return [name for name, p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def moved(model: nn.Module, batch: Any) -> Any:
    """The batch, its tensors on the device of the model."""
    return _to(next((tensor.device for tensor in model.parameters()), torch.device("cpu")), batch)


def _to(device: torch.device, value: Any) -> Any:
    if isinstance(value, (torch.Tensor, nn.utils.rnn.PackedSequence)):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(device, item) for key, item in value.items()}
    return type(value)(_to(device, item) for item in value) if type(value) in (tuple, list) else value


def in_words(batch: Any) -> str:
    """Types and shapes, where the values themselves would fill the screen."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {in_words(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(map(in_words, batch)) + ")"
    return type(batch).__name__
