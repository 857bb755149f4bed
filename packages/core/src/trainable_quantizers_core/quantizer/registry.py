"""The look-up of a quantizer class by target, training method and quantization method."""

from __future__ import annotations

from enum import Enum
from inspect import isabstract
from typing import Any

from mct_quantizers import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.get_all_subclasses import get_all_subclasses

from trainable_quantizers_core.errors import invalid


def get_trainable_quantizer_class(
    quant_target: QuantizationTarget, quantizer_id: Any, quant_method: QuantizationMethod, quantizer_base_class: type
) -> type:
    """The one subclass of ``quantizer_base_class`` with these marks.

    Abstract classes and subclasses of another match are ignored, so subclassing a quantizer does not change the
    look-up of that quantizer. Give the subclass its own identifier to make it findable.

    Args:
        quant_target: ``QuantizationTarget.Weights`` or ``.Activation``.
        quantizer_id: The identifier it is marked with: a ``TrainingMethod``, or any value of the author's. Members of
            two enumerations of one name are alike if their names are.
        quant_method: One of the methods it is marked with.
        quantizer_base_class: Base class of the framework, such as ``BasePytorchTrainableQuantizer``.

    Raises:
        QuantizerError: no class, or more than one, carries these marks; the message lists what exists.

    Examples:
        >>> from mct_quantizers import mark_quantizer
        >>> from trainable_quantizers_core import BaseTrainableQuantizer
        >>> @mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.SYMMETRIC], "halves")
        ... class Halves(BaseTrainableQuantizer):
        ...     def initialize_quantization(self, tensor_shape, name, layer): ...
        ...     def __call__(self, inputs, training): ...
        ...     def get_trainable_variables(self, group): ...
        >>> marks = (QuantizationTarget.Weights, "halves", QuantizationMethod.SYMMETRIC)
        >>> get_trainable_quantizer_class(*marks, BaseTrainableQuantizer).__name__
        'Halves'
    """
    subclasses = get_all_subclasses(quantizer_base_class)
    candidates = [cls for cls in subclasses if getattr(cls, "quantization_target", None) and not isabstract(cls)]
    matches = [
        cls
        for cls in candidates
        if cls.quantization_target is quant_target
        and quant_method in (cls.quantization_method or ())
        and _alike(cls.identifier, quantizer_id)
    ]
    matches = [cls for cls in matches if not any(cls is not other and issubclass(cls, other) for other in matches)]
    if len(matches) == 1:
        return matches[0]
    existing = sorted(
        f"{cls.__name__} ({cls.quantization_target.value}, {_text(cls.identifier)}, "
        f"{'/'.join(method.name for method in cls.quantization_method or ())})"
        for cls in candidates
    )
    raise invalid(
        "get_trainable_quantizer_class",
        "(target, identifier, method)",
        "the marks of exactly one class",
        tuple(map(_text, (quant_target, quantizer_id, quant_method))),
        f"{len(matches)} classes match; the subclasses of {quantizer_base_class.__name__} are "
        f"{'; '.join(existing) or 'none'}",
    )


def _alike(one: Any, other: Any) -> bool:
    enums = isinstance(one, Enum) and isinstance(other, Enum)
    return one == other or (enums and (type(one).__name__, one.name) == (type(other).__name__, other.name))


def _text(mark: Any) -> str:
    return str(getattr(mark, "value", mark)) if not isinstance(mark, QuantizationMethod) else mark.name
