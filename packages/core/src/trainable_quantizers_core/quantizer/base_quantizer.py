"""The base class of all trainable quantizers: its marks, configuration and variables."""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from mct_quantizers import BaseInferableQuantizer, QuantizationTarget
from mct_quantizers.common.get_all_subclasses import get_all_subclasses

from trainable_quantizers_core.constants import GROUP, VAR
from trainable_quantizers_core.enums import VariableGroup
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.base_config import TrainableQuantizerConfig, config_from_dict
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.serialization import decode, encode

Quantizer = TypeVar("Quantizer", bound="BaseTrainableQuantizer")

_CONFIG_OF_TARGET = {
    QuantizationTarget.Weights: TrainableQuantizerWeightsConfig,
    QuantizationTarget.Activation: TrainableQuantizerActivationConfig,
}


class BaseTrainableQuantizer(BaseInferableQuantizer, ABC):
    """A quantizer with trainable parameters.

    A subclass is marked with ``@mark_quantizer``, takes a configuration as its first parameter, gives every
    other parameter a default, creates its variables in ``initialize_quantization`` and quantizes in
    ``__call__``. Its constructor arguments are recorded, so ``get_config`` needs no code.
    ``BasePytorchTrainableQuantizer`` and ``BaseKerasTrainableQuantizer`` show an example.

    Args:
        quantization_config: The configuration, of the class for the marked target and with a marked method.
        freeze_quant_params: Whether the quantization parameters keep their initial values.

    Raises:
        QuantizerError: the class is not marked, its signature is not as above, or the configuration does not fit.
    """

    schedule: Any = None
    """The schedule of quantization and learning over the training steps; None without one."""
    oscillations: Any = None
    """How the levels of a weight are followed while it trains; None if they are not."""
    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> BaseTrainableQuantizer:
        """Record the arguments for ``get_config``."""
        quantizer = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        _, *given = signature.bind_partial(quantizer, *args, **kwargs).arguments.items()
        quantizer._arguments = {}
        for name, value in given:
            variadic = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            quantizer._arguments.update(value if variadic else {name: value})
        return quantizer

    def __init__(self, quantization_config: TrainableQuantizerConfig, freeze_quant_params: bool = False) -> None:
        super().__init__()
        _check_signature(type(self))
        _check_marks(type(self), quantization_config)
        if not isinstance(freeze_quant_params, bool):
            raise invalid(
                type(self).__name__, "freeze_quant_params", "True or False", freeze_quant_params, "give a bool"
            )
        self.quantization_config = quantization_config
        self.freeze_quant_params = freeze_quant_params
        self.quantizer_parameters: dict[str, dict[str, Any]] = {}

    @abstractmethod
    def initialize_quantization(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        """Create all variables on ``layer``, under names that start with ``name``, before the first batch.

        Args:
            tensor_shape: Shape of the weight; None for an activation.
            name: Prefix of the variables' names.
            layer: Layer or module that owns the variables.
        """

    @abstractmethod
    def __call__(self, inputs: Any, training: bool) -> Any:
        """The quantized ``inputs``."""

    @abstractmethod
    def get_trainable_variables(self, group: VariableGroup) -> list[Any]:
        """The variables of ``group`` that an optimizer should train."""

    def weights_quantization(self) -> bool:
        """Whether it quantizes weights."""
        return isinstance(self.quantization_config, TrainableQuantizerWeightsConfig)

    def activation_quantization(self) -> bool:
        """Whether it quantizes an activation."""
        return isinstance(self.quantization_config, TrainableQuantizerActivationConfig)

    def advance(self, steps: int = 1) -> None:
        """Report ``steps`` more steps of the optimizer; a quantizer with a schedule advances."""

    @property
    def counts_steps(self) -> bool:
        """Whether it needs ``advance`` to report the steps of the optimizer."""
        return self.schedule is not None or self.oscillations is not None

    def convert2inferable(self) -> BaseInferableQuantizer:
        """The inferable quantizer of mct-quantizers that computes what this one computes now."""
        raise NotImplementedError(f"{type(self).__name__} does not define convert2inferable.")

    def deployed_weight(self, weight: Any) -> Any:
        """The weight as the inferable quantizer is given it: unchanged, unless its rounding is learned."""
        return weight

    def add_quantizer_variable(self, name: str, variable: Any, group: VariableGroup = VariableGroup.WEIGHTS) -> None:
        """Register ``variable`` under ``name``."""
        if not isinstance(group, VariableGroup):
            raise invalid(type(self).__name__, "group", "a VariableGroup", group, "use VariableGroup.QPARAMS")
        self.quantizer_parameters[name] = {VAR: variable, GROUP: group}

    def get_quantizer_variable(self, name: str) -> Any:
        """The variable registered under ``name``.

        Raises:
            QuantizerError: there is no such variable (yet).
        """
        if name not in self.quantizer_parameters:
            advice = (
                "initialize_quantization creates the variables"
                if not self.quantizer_parameters
                else nearest(name, self.quantizer_parameters)
            )
            raise invalid(type(self).__name__, "variable", "one the quantizer has", name, advice)
        return self.quantizer_parameters[name][VAR]

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments, as JSON-compatible values."""
        config = {name: encode(value) for name, value in self._arguments.items()}
        return {**config, _config_parameter(type(self)): self.quantization_config.to_dict()}

    @classmethod
    def from_config(cls: type[Quantizer], config: Mapping[str, Any]) -> Quantizer:
        """The quantizer restored from the result of ``get_config``, as it was before training.

        Raises:
            QuantizerError: unknown or missing keys, there or in the configuration.
        """
        name = _config_parameter(cls)
        known = constructor_parameters(cls)
        accepts_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for key in config:
            if key not in known and not accepts_any:
                raise invalid(cls.__name__, "key", "a constructor argument", key, nearest(key, list(known)))
        if name not in config:
            raise invalid(cls.__name__, name, "present", list(config), "was this made by get_config?")
        options = {key: decode(value) for key, value in config.items() if key != name}
        given = config[name]
        return cls(given if isinstance(given, TrainableQuantizerConfig) else config_from_dict(given), **options)


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor by name, without ``self``.

    ``inspect.signature`` of the class itself gives those of ``__new__`` on Python 3.10.
    """
    _, *given = inspect.signature(cls.__init__).parameters.items()  # type: ignore[misc]
    return dict(given)


def _config_parameter(cls: type) -> str:
    return next(iter(constructor_parameters(cls)))


def _check_signature(cls: type) -> None:
    """The first parameter is annotated as a configuration; every other one has a default or is variadic."""
    parameters = list(constructor_parameters(cls).values())
    if not parameters or not _is_config(cls, parameters[0]):
        found = parameters[0] if parameters else None
        advice = "annotate it with TrainableQuantizerWeightsConfig, TrainableQuantizerActivationConfig or a subclass"
        raise invalid(cls.__name__, "first parameter", "a quantizer configuration", str(found), advice)
    for parameter in parameters[1:]:
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variadic:
            advice = "a quantizer is built from its configuration alone"
            raise invalid(cls.__name__, "parameter", "given a default value", parameter.name, advice)


def _is_config(cls: type, parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = typing.get_type_hints(cls.__init__)[parameter.name]  # type: ignore[misc]
        except NameError:  # imported only for type checkers: there is only the name
            classes = {TrainableQuantizerConfig, *get_all_subclasses(TrainableQuantizerConfig)}
            return parameter.annotation.rpartition(".")[2] in {known.__name__ for known in classes}
    options = typing.get_args(annotation) or (annotation,)
    return all(isinstance(option, type) and issubclass(option, TrainableQuantizerConfig) for option in options)


def _check_marks(cls: Any, config: Any) -> None:
    """The class is marked, and the configuration is of its target and of one of its methods."""
    target: Any = getattr(cls, "quantization_target", None)
    methods: Any = getattr(cls, "quantization_method", None)
    if target not in _CONFIG_OF_TARGET or not methods:
        advice = "decorate it with @mark_quantizer(quantization_target=..., quantization_method=[...], identifier=...)"
        raise invalid(cls.__name__, "class", "marked with a target and a list of methods", (target, methods), advice)
    expected: Any = _CONFIG_OF_TARGET[target]
    if not isinstance(config, expected):
        advice = f"this quantizer is marked for {target.value.lower()}"
        raise invalid(cls.__name__, "quantization_config", f"a {expected.__name__}", config, advice)
    if config.quantization_method not in methods:
        names = ", ".join(method.name for method in methods)
        advice = "choose another method, or look the class up with get_trainable_quantizer_class"
        raise invalid(cls.__name__, "quantization method", f"one of {names}", config.quantization_method.name, advice)
