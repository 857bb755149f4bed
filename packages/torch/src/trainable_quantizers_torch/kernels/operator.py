"""One definition of an operation for eager PyTorch, ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from trainable_quantizers_core import QuantizerError

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.7

_TRACED = (
    "torch.jit.trace would fix the thresholds of trainable quantizers at their current values: trace convert(model), "
    "or export the model with torch.export."
)


def operator(
    schema: str,
    forward: Callable[..., Any],
    keep: Callable[..., None],
    backward: Callable[..., Any],
    fake: Callable[..., Any],
    opaque: bool = False,
) -> Callable[..., Any]:
    """A differentiable operation from its forward and backward.

    Eager and compiled it is an ``autograd.Function``, which costs little to call and which the compiler looks into and
    fuses. A program that ``torch.export`` makes holds the custom operator ``torch.ops.trainable_quantizers.<name>``
    instead, gradient included, because it knows no ``autograd.Function``.

    Args:
        schema: ``name(Tensor x, int num_bits) -> Tensor``, in the language of ``torch.library``.
        forward: Computes the outputs.
        keep: ``keep(ctx, inputs, output)`` saves what the backward needs.
        backward: ``backward(ctx, *gradients)``: gradients of the inputs; has no derivative itself.
        fake: The outputs by shape and type alone.
        opaque: Whether the compiler treats it as opaque on a CPU, because it reads values to decide what to compute.
    """
    name, backward = schema.partition("(")[0], _differentiable_once(backward)
    exported = torch.library.custom_op(
        f"trainable_quantizers::{name}", forward, mutates_args=(), schema=schema.removeprefix(name)
    )
    exported.register_fake(fake)
    exported.register_autograd(backward, setup_context=keep)

    def forward_and_keep(ctx: Any, *inputs: Any) -> Any:
        output = forward(*inputs)
        keep(ctx, inputs, output)
        return output

    class Operation(torch.autograd.Function):
        pass

    Operation.forward = staticmethod(forward_and_keep)  # type: ignore[method-assign]
    Operation.backward = staticmethod(backward)  # type: ignore[method-assign]

    class Transformed(Operation):  # costs more to call, and the compiler takes no jvp
        generate_vmap_rule = True
        jvp = staticmethod(_no_forward_mode)
        setup_context = staticmethod(keep)

    Transformed.forward = staticmethod(forward)  # type: ignore[method-assign]
    Operation.__name__ = Transformed.__name__ = name

    def call(*inputs: Any) -> Any:
        if _is_exporting() or (opaque and torch.compiler.is_compiling() and inputs[0].device.type == "cpu"):
            return exported(*inputs)
        if torch.compiler.is_compiling():
            if not torch.is_grad_enabled():
                with torch._C.DisableTorchFunction():  # the compiler would show function modes what is inside apply
                    return forward(*inputs)
        elif torch._C._is_tracing():
            raise QuantizerError(_TRACED)
        return (Transformed if in_transform() else Operation).apply(*inputs)

    return call


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` such as ``vmap`` is active: then tensors have no values to read."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


class _NoSecondDerivative(torch.autograd.Function):
    """A gradient unchanged; differentiating it is an error."""

    @staticmethod
    def forward(gradient: torch.Tensor, *made_of: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise QuantizerError(f"double backward {_STRAIGHT_THROUGH}: differentiate the float model twice instead.")

    generate_vmap_rule = True


_STRAIGHT_THROUGH = "has no meaning for a quantizer, whose straight-through gradient is a rule for one backward"


def _differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of a backward; differentiating them is an error."""

    def once(ctx: Any, *gradients: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return found
        return tuple(None if each is None else _NoSecondDerivative.apply(each, *gradients) for each in found)

    return once


def _no_forward_mode(ctx: Any, *tangents: Any) -> Any:
    raise QuantizerError(f"forward mode (jvp) {_STRAIGHT_THROUGH}: use torch.func.grad, vjp or jacrev.")


def stands_for_values(tensor: torch.Tensor) -> bool:
    """Whether to compute with a tensor by plain operations: it may have no values, or be traced.

    A tensor of the device ``meta``, a transform of ``torch.func``, or a mode that sees operations, as ``make_fx`` and
    ``FakeTensorMode`` are: PyTorch has no fake-quantize kernels for these.
    """
    if torch.compiler.is_compiling():
        return True
    return tensor.is_meta or in_transform() or torch._C._len_torch_dispatch_stack() > 0


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether the values can be read now, by the fastest means: a tensor in memory, and nothing is traced."""
    real = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return real and tensor.device.type == "cpu" and not stands_for_values(tensor)
