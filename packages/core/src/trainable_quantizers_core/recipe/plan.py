"""The plan for each layer: a recipe's rules applied to the layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from trainable_quantizers_core.errors import QuantizerError, invalid, nearest
from trainable_quantizers_core.recipe.fields import plain_fields, read_fields, read_keys
from trainable_quantizers_core.recipe.schemes import SCHEMES, ActivationsScheme, AnyScheme, WeightsScheme

_POSITIONS = ("first", "last")


@dataclass(frozen=True)
class Layer:
    """A layer as rules see it; a framework package describes a model by these, in order of execution.

    Args:
        name: Full name within the model.
        types: Kind first (``"conv"``), then the name of its class (``"Conv2d"``).
        weights: Names of the weights that can be quantized; may be empty.
        activation: Whether its output may be quantized.

    Examples:
        >>> from trainable_quantizers_core import Recipe
        >>> (plan,) = Recipe.preset("power_of_two_8bit").plan([Layer("head", ("linear", "Linear"), ("weight",))])
        >>> plan.weights.num_bits, plan.activations, plan.reason
        (8, None, 'default')
    """

    name: str
    types: tuple[str, ...]
    weights: tuple[str, ...] = ()
    activation: bool = False


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is quantized.

    Args:
        layer: The layer.
        weights: How its weights are quantized; None leaves them in float.
        activations: How its output is quantized; None leaves it in float.
        reason: What decided, as text: ``"default"``, ``"rule 2 (type 'linear')"``, ``"skipped by rule 3 (...)"``.

    Examples:
        >>> from trainable_quantizers_core import Recipe
        >>> layers = [Layer("stem", ("conv", "Conv2d"), ("weight",)), Layer("head", ("linear", "Linear"), ("weight",))]
        >>> for plan in Recipe({"num_bits": 4}, rules=[LayerRule(type="linear", skip=True)]).plan(layers):
        ...     print(plan.layer.name, plan.weights and plan.weights.num_bits, plan.reason)
        stem 4 default
        head None skipped by rule 1 (type 'linear')
    """

    layer: Layer
    weights: WeightsScheme | None
    activations: ActivationsScheme | None
    reason: str


@dataclass(frozen=True)
class LayerRule:
    """Changes to the recipe for the layers that meet all of the given conditions.

    Args:
        name: Pattern for the layer's full name, with ``*``, ``?`` and ``[...]``.
        type: Pattern for its kind or class name, in any case.
        position: ``"first"`` or ``"last"``: of the layers with weights.
        weights: Fields of ``WeightsScheme`` that differ (or a whole one); False leaves weights in float.
        activations: The same for ``ActivationsScheme``.
        skip: Leave both in float.

    Raises:
        QuantizerError: no condition, nothing that differs, or unknown fields and values.

    Examples:
        >>> LayerRule(type="depthwise_*", weights={"num_bits": 8}).conditions
        "type 'depthwise_*'"
    """

    name: str | None = None
    type: str | None = None
    position: str | None = None
    weights: Any = None
    activations: Any = None
    skip: bool = False

    def __post_init__(self) -> None:
        for name, value in self.read(vars(self)).items():
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, given: Any, where: str = " in a rule") -> dict[str, Any]:
        """The arguments of a rule from a table of a file, or as given in Python, checked.

        Raises:
            QuantizerError: see the class.
        """
        values = dict(read_keys(cls, given, [field.name for field in fields(cls)], where))
        for key in ("name", "type", "position"):
            value = values.get(key)
            if value is not None and (not isinstance(value, str) or not value):
                raise invalid(cls.__name__, key, "a string", value, "write it in quotes", where)
        if values.get("position") not in (None, *_POSITIONS):
            advice = nearest(values["position"], _POSITIONS)
            raise invalid(cls.__name__, "position", "'first' or 'last'", values["position"], advice, where)
        if all(values.get(key) is None for key in ("name", "type", "position")):
            advice = "give name, type or position; settings for all layers belong in [weights] and [activations]"
            raise invalid(cls.__name__, "rule", "one with a condition", dict(given), advice, where)
        for target, scheme in SCHEMES.items():
            value = values.get(target)
            if isinstance(value, scheme):
                values[target] = dict(vars(value))
            elif value is True:
                advice = "write {} to quantize with the default fields"
                raise invalid(cls.__name__, target, "fields that differ, or false", value, advice, where)
            elif value is not None and value is not False:
                values[target] = read_fields(scheme, value, f"{where}, {target}")
        skip = values.get("skip", False)
        if not isinstance(skip, bool):
            raise invalid(cls.__name__, "skip", "true or false", skip, "write it without quotes", where)
        changes = [target for target in SCHEMES if values.get(target) is not None]
        if skip == bool(changes):
            advice = "give weights or activations, or skip = true alone"
            raise invalid(cls.__name__, "rule", "one change", dict(given), advice, where)
        return values

    @property
    def conditions(self) -> str:
        """The conditions in words."""
        given = {key: getattr(self, key) for key in ("name", "type", "position")}
        return ", ".join(f"{key} {value!r}" for key, value in given.items() if value is not None)

    def change(self, target: str) -> Any:
        """The fields of ``target`` that differ, False to leave it in float, None for no change."""
        return False if self.skip else getattr(self, target)

    def to_dict(self) -> dict[str, Any]:
        """The given arguments, as values that TOML and JSON can hold."""
        values = {key: value for key, value in vars(self).items() if value is not None and (key != "skip" or value)}
        return {key: plain_fields(value) if isinstance(value, dict) else value for key, value in values.items()}

    def matches_name(self, layer: Layer) -> bool:
        """Whether the name matches; a name with brackets also matches itself."""
        return self.name is None or self.name == layer.name or fnmatchcase(layer.name, self.name)

    def matches_type(self, layer: Layer) -> bool:
        """Whether the kind or the class matches."""
        return self.type is None or any(fnmatchcase(word.lower(), self.type.lower()) for word in layer.types)


def plan_layers(
    owner: str,
    weights: WeightsScheme | None,
    activations: ActivationsScheme | None,
    rules: Sequence[LayerRule],
    layers: Sequence[Layer],
) -> tuple[LayerPlan, ...]:
    """One plan per layer; of several matching rules, a later one overrides an earlier one field by field.

    Raises:
        QuantizerError: a rule that matches nothing, or nothing that is quantized.
    """
    weighted = [index for index, layer in enumerate(layers) if layer.weights]
    ends = {"first": weighted[:1], "last": weighted[-1:]}
    matching: list[list[tuple[str, LayerRule]]] = [[] for _ in layers]
    for number, rule in enumerate(rules, 1):
        inside = range(len(layers)) if rule.position is None else ends[rule.position]
        found = [index for index in inside if rule.matches_name(layers[index]) and rule.matches_type(layers[index])]
        if not found:
            raise _matches_nothing(owner, number, rule, [layers[index] for index in inside], layers)
        for index in found:
            matching[index].append((f"rule {number} ({rule.conditions})", rule))
    plans = tuple(
        LayerPlan(
            layer,
            _resolve(WeightsScheme, weights, [rule.change("weights") for _, rule in rules]) if layer.weights else None,
            _resolve(ActivationsScheme, activations, [rule.change("activations") for _, rule in rules])
            if layer.activation
            else None,
            _reason(layer, rules),
        )
        for layer, rules in zip(layers, matching, strict=True)
    )
    if not any(plan.weights or plan.activations for plan in plans):
        advice = "add [weights] or [activations], or check which layers the rules skip"
        raise invalid(owner, "recipe", "one that quantizes something", [layer.name for layer in layers], advice)
    return plans


def _resolve(kind: type[AnyScheme], default: AnyScheme | None, changes: Sequence[Any]) -> AnyScheme | None:
    quantized = default is not None
    values = dict(vars(default)) if default is not None else {}
    for change in changes:
        if change is not None:
            quantized = change is not False
            values.update(change or {})
    return kind(**values) if quantized else None


def _reason(layer: Layer, rules: Sequence[tuple[str, LayerRule]]) -> str:
    if not layer.weights and not layer.activation:
        return "nothing to quantize"
    if not rules:
        return "default"
    text, last = rules[-1]
    return f"skipped by {text}" if last.skip else ", ".join(text for text, _ in rules)


def _matches_nothing(
    owner: str, number: int, rule: LayerRule, inside: Sequence[Layer], layers: Sequence[Layer]
) -> QuantizerError:
    types = list(dict.fromkeys(word for layer in layers for word in layer.types))
    if not inside:
        advice = "no layer has weights"
    elif not any(map(rule.matches_name, layers)):
        advice = nearest(rule.name, [layer.name for layer in layers])
    elif not any(map(rule.matches_type, layers)):
        advice = nearest(str(rule.type).lower(), types)
    else:
        named = "; ".join(f"{layer.name} is {'/'.join(layer.types)}" for layer in inside if rule.matches_name(layer))
        advice = f"no layer meets all conditions ({named or 'the ' + str(rule.position) + ' is ' + inside[0].name})"
    return invalid(owner, f"rule {number}", "one that matches a layer", rule.conditions, advice)
