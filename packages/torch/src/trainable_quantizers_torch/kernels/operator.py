"""One definition of an operation for eager PyTorch, ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.7


def operator(
    schema: str,
    forward: Callable[..., Any],
    keep: Callable[..., None],
    backward: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    """A differentiable operation from its forward and backward.

    Eager and compiled it is an ``autograd.Function``, which costs little to call and which the compiler looks into and
    fuses. A program that ``torch.export`` makes holds the custom operator ``torch.ops.trainable_quantizers.<name>``
    instead, gradient included, because it knows no ``autograd.Function``.

    Args:
        schema: ``name(Tensor x, int num_bits) -> Tensor``, in the language of ``torch.library``.
        forward: Computes the outputs.
        keep: ``keep(ctx, inputs, output)`` saves what the backward needs.
        backward: ``backward(ctx, *gradients)``: gradients of the inputs; differentiable once.
        fake: The outputs by shape and type alone.
    """
    name = schema.partition("(")[0]
    exported = torch.library.custom_op(
        f"trainable_quantizers::{name}", forward, mutates_args=(), schema=schema.removeprefix(name)
    )
    exported.register_fake(fake)
    exported.register_autograd(once_differentiable(backward), setup_context=keep)

    class Operation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs)
            keep(ctx, inputs, output)
            return output

    Operation.backward = staticmethod(once_differentiable(backward))  # type: ignore[method-assign]
    Operation.__name__ = name

    def call(*inputs: Any) -> Any:
        if _is_exporting():
            return exported(*inputs)
        if torch.compiler.is_compiling() and not torch.is_grad_enabled():
            with torch._C.DisableTorchFunction():  # the compiler would show function modes what is inside apply
                return forward(*inputs)
        return Operation.apply(*inputs)

    return call


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether the values lie open to read, now, by whatever means is fastest: a tensor in memory, nothing traced."""
    real = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return real and tensor.device.type == "cpu" and not torch.compiler.is_compiling()
