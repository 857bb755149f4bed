"""Where quantizers of activations stand: of a tensor that several layers could quantize, the last one does."""

from __future__ import annotations

UNBOUNDED = "it holds infinities, as masks do: quantized they would be numbers like others"
"""Why such a tensor stays in float."""

_JOINS = ("norm", "add", "mul", "matmul", "concat", "pool")
_LEFT_TO: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_JOINS, ("activation",)),
    **dict.fromkeys(("conv", "depthwise_conv", "conv_transpose", "linear"), ("activation", "norm")),
}


def is_left_to(kind: str, follower: str) -> bool:
    """Whether a layer whose output goes into one other alone is quantized after that one, not before.

    Args:
        kind: What the layer is.
        follower: What the other one is.

    Example:
        >>> is_left_to("conv", "norm"), is_left_to("add", "norm")
        (True, False)
    """
    return follower in _LEFT_TO.get(kind, ())


def changes_values(kind: str, name: str) -> bool:
    """Whether the output of a layer holds values that its input does not.

    Args:
        kind: What the layer is.
        name: The name of its class.

    Example:
        >>> changes_values("pool", "MaxPool2d"), changes_values("pool", "AvgPool2d"), changes_values("other", "Flatten")
        (False, True, False)
    """
    return kind not in ("other", "embedding") and not (kind == "pool" and "max" in name.lower())
