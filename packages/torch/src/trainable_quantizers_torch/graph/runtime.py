"""Quantizes inside a model's own forward: a function mode that identifies each call of a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch._dynamo.eval_frame import skip_code
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint
from trainable_quantizers_core import QuantizerError

from trainable_quantizers_torch.graph.attention import PARTS, AttentionInParts, has_parts
from trainable_quantizers_torch.graph.recomputed import open_parts, saving
from trainable_quantizers_torch.graph.seen_as import FUNCTIONS, OPERATORS, as_method
from trainable_quantizers_torch.graph.weights import Path
from trainable_quantizers_torch.layers.mixed import mix
from trainable_quantizers_torch.layers.norm import FoldedNorm
from trainable_quantizers_torch.layers.wrapper import become

QUANTIZERS = "activation_quantizers"
"""The name under which a module holds the quantizers of what its forward computes."""

HIDDEN = frozenset({nn.functional.hardswish, nn.functional.hardsigmoid})
"""Functions that ``torch.compile`` shows to no mode."""


_HIDDEN_CALL = (
    "torch.compile hides calls of hardswish and hardsigmoid from quantizers: use nn.Hardswish and nn.Hardsigmoid."
)


_TRACED = (
    "torch.fx does not trace quantizers of functions and operators: use torch.export.export(model, inputs), or trace "
    "the float model."
)

_SCRIPTED = (
    "torch.jit.script cannot compile a model that quantizes as it runs: use torch.jit.trace(convert(model), inputs)."
)


@dataclass
class Step:
    """The quantization at one call of a function.

    Args:
        inputs: The quantizers of arguments.
        output: The quantizer of the result.
        items: The items of a tuple result that are quantized; None for a tensor.
        skipped: Whether the call gives its first argument: a batch norm that was folded.
        in_place: Whether the call changes its first argument, from which the forward reads the result.
        norm: The batch norm that this call is, or that reads it and folds into it at conversion. While the norm
            normalizes, its call is not skipped, and its result is quantized in place of what it reads.
    """

    inputs: dict[Path, nn.Module] = field(default_factory=dict)
    output: nn.Module | None = None
    items: tuple[int, ...] | None = None
    skipped: bool = False
    in_place: bool = False
    norm: FoldedNorm | None = None

    @property
    def skips(self) -> bool:
        """Whether the call gives its first argument now."""
        return self.skipped and (self.norm is None or not self.norm.normalizes)

    def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the function, quantized."""
        if self.skips:
            return args[0]
        changed = args[0] if self.in_place else None
        if changed is not None:  # autograd needs what the function gives: the quantized result is written afterwards
            args = (changed.clone(), *args[1:])
        args, kwargs = self.given(args, kwargs)
        out = kwargs.get("out")
        if self.output is not None and isinstance(out, torch.Tensor):
            result = self.taken(function(*args, **{**kwargs, "out": None}))
            return out.resize_(result.shape).copy_(result)
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
        elsewhere = self.norm is not None and self.norm.normalizes is not self.skipped
        if self.output is None or elsewhere:
            return result
        if self.items is None or not isinstance(result, (tuple, list)):
            return quantized(self.output, result)
        items = [quantized(self.output, item) if at in self.items else item for at, item in enumerate(result)]
        return tuple(items) if type(result) in (tuple, list) else type(result)(*items)


_NAMES = ("input", "weight", "bias")


def _place_in(positional: list[Any], keywords: dict[str, Any], place: int | str) -> tuple[Any, Any]:
    """The current place of an argument, which may be given by position where it was recorded by name, or vice versa."""
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
    """The quantization within one call of a module.

    Args:
        steps: By function, one for each of its calls; None where nothing happens.
        training: The same for training, where that differs.
        inside: By the calls of a module inside, one for each of them.
        whole: The quantization of the module's own arguments and result; nothing is quantized inside then.
        methods: By name of a method that the forward calls: how often functions and modules were called before.
        training_methods: The same for training.
    """

    steps: dict[Callable[..., Any], list[Step | None]] = field(default_factory=dict)
    training: dict[Callable[..., Any], list[Step | None]] | None = None
    inside: dict[Calls, list[Frame]] = field(default_factory=dict)
    whole: Step | None = None
    methods: dict[str, Mapping[Any, int]] = field(default_factory=dict)
    training_methods: dict[str, Mapping[Any, int]] = field(default_factory=dict)


_NOTHING = Frame()


class Quantizing(TorchFunctionMode):
    """Quantizes while a module's forward runs: each function at its n-th call in a call of a module."""

    def __init__(
        self,
        frame: Frame | None = None,
        steps: Mapping[Callable[..., Any], list[Step | None]] | None = None,
        counts: Mapping[Any, int] | None = None,
    ) -> None:
        super().__init__()
        self.frame, self.steps, self.counts = frame or _NOTHING, steps or {}, dict(counts or {})
        self.learns, self.saving = torch.is_grad_enabled(), None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """PyTorch calls this in place of a function."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            if func is checkpoint:
                return self.recomputed(func, *args, **kwargs)
            if func in OPERATORS:
                func, args = as_method(func, args)
        else:
            self.watch_parts()
        steps = self.steps.get(func) or self.steps.get(FUNCTIONS.get(func, func))
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

    def watch_parts(self) -> None:
        """Make recomputed parts of the forward quantize as they do now."""
        now = saving()
        if now == self.saving and (torch.is_grad_enabled() or not self.learns):
            return
        self.saving = now
        for part, name in open_parts(Quantizing.run.__code__):
            function = getattr(part, name)
            if not isinstance(function, _Again):
                setattr(part, name, _Again(function, self.frame, self.steps, dict(self.counts)))

    def recomputed(self, checkpoint: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of a part in a graph of ``torch.compile``: no mode is seen inside, and none may change."""
        known = [*self.steps, *self.frame.inside]

        def part(*args: Any, **kwargs: Any) -> Any:
            mode = Quantizing(self.frame, self.steps, self.counts)
            with mode:
                return function(*args, **kwargs), [mode.counts.get(each, 0) for each in known]

        result, counts = checkpoint(part, *args, **kwargs)
        self.counts.update({each: count for each, count in zip(known, counts, strict=True) if count})
        return result

    def run(
        self,
        forward: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
        frame: Frame,
        module: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        counts: Mapping[Any, int] = MappingProxyType({}),
    ) -> Any:
        """A module's forward or another method, its functions quantized as the frame says."""
        outer = self.frame, self.steps, self.counts
        whole = frame.whole
        self.frame, self.counts = frame, dict(counts)
        self.steps = frame.training if module.training and frame.training is not None else frame.steps
        try:
            if whole is None:
                result = forward(module, args, kwargs)
                if torch.compiler.is_compiling() and any(each in self.steps for each in HIDDEN - self.counts.keys()):
                    raise QuantizerError(_HIDDEN_CALL)
                return result
            if whole.skips:
                return args[0]
            args, kwargs = whole.given(args, kwargs)
            return whole.taken(forward(module, args, kwargs))
        finally:
            self.frame, self.steps, self.counts = outer


for _each in (Quantizing.__torch_function__, Quantizing.watch_parts, saving, open_parts):
    skip_code(_each.__code__)  # outside of a graph, the compiler mistakes attributes of tensors for one another


class _Again:
    """Recomputes a part of a forward with the quantizers that it had.

    Args:
        function: The part.
        frame: The frame of the module's call.
        steps: The steps of the mode that the module is in.
        counts: How often each function had been called when the part began.
    """

    def __init__(self, function: Callable[..., Any], *state: Any) -> None:
        self.function, self.state = function, state

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Quantizing(*self.state), AttentionInParts():
            return self.function(*args, **kwargs)


@dataclass(eq=False)
class Calls:
    """The frames of a module's calls, kept in the module.

    Args:
        path: Name of the module in the model.
        frames: For calls outside any other module that quantizes.
    """

    path: str
    frames: list[Frame] = field(default_factory=list)

    @staticmethod
    def forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward of the module's own class."""
        return super(QuantizedCalls, module).forward(*args, **kwargs)  # type: ignore[misc]


class QuantizedCalls:
    """A module whose forward quantizes what it computes; mixed into the module's own class."""

    quantized_calls: Calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the module, quantized."""
        calls = self.quantized_calls
        if any(isinstance(each, torch.fx.Proxy) for each in (*args, *kwargs.values())):
            raise QuantizerError(_TRACED)
        for mode in _get_current_function_mode_stack():
            if isinstance(mode, Quantizing):
                if not torch.compiler.is_compiling():
                    mode.watch_parts()
                frames = mode.frame.inside.get(calls, calls.frames)
                count = mode.counts.get(calls, 0)
                mode.counts[calls] = count + 1
                return mode.run(calls.forward, frames[min(count, len(frames) - 1)], self, args, kwargs)
        mode = Quantizing()
        with mode, AttentionInParts():
            return mode.run(calls.forward, calls.frames[0], self, args, kwargs)

    def __prepare_scriptable__(self) -> Any:
        """Called by ``torch.jit.script`` for a module that it can compile."""
        raise QuantizerError(_SCRIPTED)


class Method:
    """A method that a module's forward calls; calls from elsewhere quantize its functions in the same way.

    Args:
        module: Has it in its class.
        name: Of the method.
    """

    def __init__(self, module: Any, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the class's method."""
        if any(isinstance(mode, Quantizing) for mode in _get_current_function_mode_stack()):
            return self.call(self.module, args, kwargs)
        frame, mode = self.module.quantized_calls.frames[0], Quantizing()
        counts = frame.methods[self.name]
        if self.module.training:
            counts = frame.training_methods.get(self.name, counts)
        with mode, AttentionInParts():
            return mode.run(self.call, frame, self.module, args, kwargs, counts)

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The method of the module's own class."""
        return getattr(type(module), self.name)(module, *args, **kwargs)


@dataclass(frozen=True)
class Place:
    """The place of a quantizer in a model.

    Args:
        operation: The name of the operation.
        attribute: ``output``, or the name of a weight.
        order: The position of the operation in a run of the model.
    """

    operation: str
    attribute: str
    order: int


class Quantizers(nn.ModuleDict):
    """The quantizers for a module's forward, by name; called as a module, it returns its input.

    A forward that iterates over all its modules calls this one, too.

    Args:
        places: The place of each quantizer, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}

    def forward(self, x: Any) -> Any:
        """``x`` itself."""
        return x


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def take_over(module: nn.Module, other: nn.Module) -> nn.Module:
    """Give ``module`` the class and state of ``other``; keep the quantization of its calls and its forward hooks."""
    calls = getattr(module, "quantized_calls", None) if isinstance(module, QuantizedCalls) else None
    held = module._modules.get(QUANTIZERS)
    hooks = {name: each for name, each in vars(module).items() if name.startswith(_HOOKS)}
    become(module, other)
    vars(module).update(hooks)
    if calls is not None:
        mix(module, QuantizedCalls, first=True)
        module.quantized_calls = calls
        if held is not None:
            module.add_module(QUANTIZERS, held)
    return module
