"""Quantizing inside the forward that a model has: a function mode that knows which call of a function is which."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.backends import mha
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from trainable_quantizers_core import QuantizerError

from trainable_quantizers_torch.graph.attention import PARTS, has_parts
from trainable_quantizers_torch.layers.mixed import mix
from trainable_quantizers_torch.layers.wrapper import become

QUANTIZERS = "activation_quantizers"
"""The name under which a module holds the quantizers of what its forward computes."""

HIDDEN = frozenset({nn.functional.hardswish, nn.functional.hardsigmoid})
"""Functions that ``torch.compile`` shows to no mode."""

_CALLED_BY = {torch.rms_norm: nn.functional.rms_norm, torch.threshold: nn.functional.threshold}
"""What ``torch.compile`` shows to modes in the place of a function, and that function."""

Path = tuple[int | str, ...]
"""Where an argument is: its position or keyword, and within a list its index."""


_HIDDEN_CALL = (
    "torch.compile hides calls of hardswish and hardsigmoid from quantizers: "
    "compute them by nn.Hardswish and nn.Hardsigmoid."
)


_RECOMPUTED = (
    "torch.utils.checkpoint recomputes a module that the forward calls several times, each call with quantizers of its "
    "own: checkpoint the module that calls it."
)


@dataclass
class Step:
    """What happens at one call of a function.

    Args:
        inputs: What quantizes arguments.
        output: What quantizes the result.
        items: Which items of a result that is a tuple are quantized; None for a tensor.
        skipped: Whether the call gives its first argument: a batch norm that was folded.
        in_place: Whether the call changes its first argument, from which the forward reads the result.
    """

    inputs: dict[Path, nn.Module] = field(default_factory=dict)
    output: nn.Module | None = None
    items: tuple[int, ...] | None = None
    skipped: bool = False
    in_place: bool = False

    def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the function, quantized."""
        if self.skipped:
            return args[0]
        changed = args[0] if self.in_place else None
        if changed is not None:  # autograd needs what the function gives: the quantized result is written afterwards
            args = (changed.clone(), *args[1:])
        args, kwargs = self.given(args, kwargs)
        result = function(*args, **kwargs)
        if changed is None:
            return self.taken(result)
        changed.copy_(self.taken(args[0] if result is None else result))
        return None if result is None else changed

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, quantized."""
        if not self.inputs:
            return args, kwargs
        positional, keywords = list(args), dict(kwargs)
        for (place, *inside), quantizer in self.inputs.items():
            holder, key = _place_in(positional, keywords, place)
            if inside and holder is not None:
                holder[key] = list(holder[key])
                holder, key = holder[key], inside[0]
            if holder is not None and (isinstance(holder, dict) or key < len(holder)):
                holder[key] = quantized(quantizer, holder[key])
        return tuple(positional), keywords

    def taken(self, result: Any) -> Any:
        """The result, quantized."""
        if self.output is None:
            return result
        if self.items is None or not isinstance(result, (tuple, list)):
            return quantized(self.output, result)
        items = [quantized(self.output, item) if at in self.items else item for at, item in enumerate(result)]
        return tuple(items) if type(result) in (tuple, list) else type(result)(*items)


_NAMES = ("input", "weight", "bias")


def _place_in(positional: list[Any], keywords: dict[str, Any], place: int | str) -> tuple[Any, Any]:
    """Where an argument is now: by position where it was by name when it was recorded, or the other way round."""
    if isinstance(place, int):
        if place < len(positional):
            return positional, place
        place = _NAMES[place] if place < len(_NAMES) else ""
    if place in keywords:
        return keywords, place
    index = _NAMES.index(place) if place in _NAMES else len(positional)
    return (positional, index) if index < len(positional) else (None, None)


def quantized(quantizer: nn.Module, value: Any) -> Any:
    """A floating tensor, quantized; anything else as it is."""
    return quantizer(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@dataclass
class Frame:
    """What one call of a module computes.

    Args:
        steps: By function, one for each of its calls; None where nothing happens.
        training: The same for training, where that differs.
        inside: By the number of a module called inside, one for each of its calls.
        whole: What happens to the module's own arguments and result; nothing is quantized inside then.
    """

    steps: dict[Callable[..., Any], list[Step | None]] = field(default_factory=dict)
    training: dict[Callable[..., Any], list[Step | None]] | None = None
    inside: dict[int, list[Frame]] = field(default_factory=dict)
    whole: Step | None = None


_NOTHING = Frame()


class Quantizing(TorchFunctionMode):
    """Quantizes while a module's forward runs: each function at its n-th call in a call of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = _NOTHING
        self.steps: Mapping[Callable[..., Any], list[Step | None]] = {}
        self.counts: dict[Any, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What PyTorch calls in the place of a function."""
        kwargs = kwargs or {}
        steps = self.steps.get(func) or self.steps.get(_CALLED_BY.get(func, func))
        if steps is None:
            parts = PARTS.get(func)
            if parts is not None and self.steps and has_parts(func, args, kwargs):
                return parts(self.part, *args, **kwargs)
            return func(*args, **kwargs)
        count = self.counts.get(func, 0)
        self.counts[func] = count + 1
        step = steps[min(count, len(steps) - 1)]
        return func(*args, **kwargs) if step is None else step(func, args, kwargs)

    def part(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A part of a function, quantized as if the forward called it."""
        return self.__torch_function__(function, (), args, kwargs)

    def run(self, calls: Calls, frame: Frame, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's forward, its functions quantized as the frame says."""
        outer = self.frame, self.steps, self.counts
        whole = frame.whole
        self.frame, self.counts = frame, {}
        self.steps = frame.training if module.training and frame.training is not None else frame.steps
        try:
            if whole is None:
                result = calls.forward(module, args, kwargs)
                if torch.compiler.is_compiling() and any(each in self.steps for each in HIDDEN - self.counts.keys()):
                    raise QuantizerError(_HIDDEN_CALL)
                return result
            args, kwargs = whole.given(args, kwargs)
            return whole.taken(calls.forward(module, args, kwargs))
        finally:
            self.frame, self.steps, self.counts = outer


class _AttentionInParts:
    """While it is open, PyTorch computes attention by functions that quantizers see.

    It has one function for a whole layer where no gradient is asked for, and takes it under no mode; but the compiler
    takes no notice of modes there. The switch is one for the process: the first forward turns it off, the last one
    puts it back. Compiled code has it off while it is traced.
    """

    lock = threading.Lock()
    open = 0
    before = True

    def __enter__(self) -> None:
        self.traced = torch.compiler.is_compiling()
        if self.traced:
            self.before = mha._is_fastpath_enabled  # the compiler refuses the function that sets it
            mha._is_fastpath_enabled = False
            return
        with _AttentionInParts.lock:
            if not _AttentionInParts.open:
                _AttentionInParts.before = mha.get_fastpath_enabled()
                mha.set_fastpath_enabled(False)
            _AttentionInParts.open += 1

    def __exit__(self, *error: object) -> None:
        if self.traced:
            mha._is_fastpath_enabled = self.before
            return
        with _AttentionInParts.lock:
            _AttentionInParts.open -= 1
            if not _AttentionInParts.open:
                mha.set_fastpath_enabled(_AttentionInParts.before)


@dataclass
class Calls:
    """What a module's calls compute, kept in the module.

    Args:
        number: Which module it is.
        frames: For calls outside any other module that quantizes.
    """

    number: int
    frames: list[Frame]

    @staticmethod
    def forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward of the module's own class."""
        return super(QuantizedCalls, module).forward(*args, **kwargs)  # type: ignore[misc]


class QuantizedCalls:
    """A module whose forward quantizes what it computes; mixed into the module's own class."""

    quantized_calls: Calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes, quantized."""
        calls = self.quantized_calls
        for mode in _get_current_function_mode_stack():
            if isinstance(mode, Quantizing):
                frames = mode.frame.inside.get(calls.number, calls.frames)
                count = mode.counts.get(calls.number, 0)
                mode.counts[calls.number] = count + 1
                return mode.run(calls, frames[min(count, len(frames) - 1)], self, args, kwargs)
        if len(calls.frames) > 1 and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            raise QuantizerError(_RECOMPUTED)
        mode = Quantizing()
        with mode, _AttentionInParts():
            return mode.run(calls, calls.frames[0], self, args, kwargs)


@dataclass(frozen=True)
class Place:
    """What a quantizer quantizes.

    Args:
        operation: The name of the operation.
        attribute: ``output``, or the name of a weight.
        order: The position of the operation in a run of the model.
    """

    operation: str
    attribute: str
    order: int


class Quantizers(nn.ModuleDict):
    """The quantizers of what a module's forward computes, by name; passes on what it is called with.

    A forward that goes through all that its module holds comes by here too.

    Args:
        places: What each quantizes, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}

    def forward(self, x: Any) -> Any:
        """``x`` itself."""
        return x


def take_over(module: nn.Module, other: nn.Module) -> nn.Module:
    """Give ``module`` the class and state of ``other``; what its calls quantize stays."""
    calls = getattr(module, "quantized_calls", None) if isinstance(module, QuantizedCalls) else None
    held = module._modules.get(QUANTIZERS)
    become(module, other)
    if calls is not None:
        mix(module, QuantizedCalls, first=True)
        module.quantized_calls = calls
        if held is not None:
            module.add_module(QUANTIZERS, held)
    return module
