"""Recipes: files that state which parts of a model are quantized and how, for every framework."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from numbers import Real
from pathlib import Path
from typing import Any

import tomli_w

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.files import write_atomically
from trainable_quantizers_core.reading import reading
from trainable_quantizers_core.recipe.fields import plain_fields, read_fields, read_keys
from trainable_quantizers_core.recipe.plan import Layer, LayerPlan, LayerRule, plan_layers
from trainable_quantizers_core.recipe.schemes import SCHEMES, ActivationsScheme, WeightsScheme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PRESETS = resources.files(__package__) / "presets"
_LARGEST_FILE = 2**16  # bytes: parsers of TOML take time that grows with the square of the parts of a key
_MOST_DOTS = 256


def _parsed_toml(text: str) -> dict[str, Any]:
    if max((line.count(".") for line in text.splitlines()), default=0) > _MOST_DOTS:
        raise ValueError(f"a line holds more than {_MOST_DOTS} dots")
    return tomllib.loads(text)


_READERS = {".toml": _parsed_toml, ".json": json.loads}
_WRITERS = {".toml": tomli_w.dumps, ".json": lambda data: json.dumps(data, indent=2, allow_nan=False) + "\n"}


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized: defaults for all layers, and rules for those that differ.

    Args:
        weights: How weights are quantized; None leaves them in float unless a rule says otherwise.
        activations: How activations are quantized; None leaves them in float unless a rule says otherwise.
        rules: Of several that match a layer, a later one overrides an earlier one field by field.
        name: For summaries and messages.
        require_coverage: Share of the multiply-accumulates, from 0 to 1, that must have quantized weights and inputs;
            if it is less, ``prepare`` fails with a list of the others.

    Raises:
        QuantizerError: an unknown key or value.

    Examples:
        >>> recipe = Recipe(WeightsScheme(num_bits=4), rules=[LayerRule(position="first", weights={"num_bits": 8})])
        >>> layers = [Layer("stem", ("conv", "Conv2d"), ("weight",)), Layer("head", ("linear", "Linear"), ("weight",))]
        >>> [(plan.layer.name, plan.weights.num_bits, plan.reason) for plan in recipe.plan(layers)]
        [('stem', 8, "rule 1 (position 'first')"), ('head', 4, 'default')]
    """

    weights: WeightsScheme | None = None
    activations: ActivationsScheme | None = None
    rules: tuple[LayerRule, ...] = ()
    name: str = ""
    require_coverage: float | None = None

    def __post_init__(self) -> None:
        for name, value in self._read(vars(self)).items():
            object.__setattr__(self, name, value)

    @classmethod
    def _read(cls, given: Any, source: str = "the recipe") -> dict[str, Any]:
        where = f" in {source}"
        values = dict(read_keys(cls, given, [field.name for field in fields(cls)], where))
        if not isinstance(values.get("name", ""), str):
            raise invalid(cls.__name__, "name", "a string", values["name"], "write it in quotes", where)
        required = values.get("require_coverage")
        if required is not None and not _is_share(required):
            advice = "1.0 asks for all multiply-accumulates, 0.9 for nine of ten"
            raise invalid(cls.__name__, "require_coverage", "a number from 0 to 1", required, advice, where)
        for target, scheme in SCHEMES.items():
            value = values.get(target)
            if value is not None and not isinstance(value, scheme):
                values[target] = scheme(**read_fields(scheme, value, f"{where}, [{target}]"))
        rules = values.get("rules", ())
        if not isinstance(rules, (list, tuple)):
            raise invalid(cls.__name__, "rules", "a list", rules, "write [[rules]] above each", where)
        values["rules"] = tuple(
            rule if isinstance(rule, LayerRule) else LayerRule(**LayerRule.read(rule, f"{where}, rule {number}"))
            for number, rule in enumerate(rules, 1)
        )
        return values

    def plan(self, layers: Sequence[Layer]) -> tuple[LayerPlan, ...]:
        """The plan for each layer of a model; the layers are given in order of execution.

        Raises:
            QuantizerError: a rule that matches no layer, or nothing that is quantized.
        """
        owner = f"Recipe {self.name!r}" if self.name else "Recipe"
        return plan_layers(owner, self.weights, self.activations, self.rules, layers)

    @property
    def needs_data(self) -> bool:
        """Whether it needs a run of the model: for activations, corrected biases or coverage."""
        activations = self.activations is not None or any(rule.activations for rule in self.rules)
        schemes = [self.weights and vars(self.weights), *(rule.weights for rule in self.rules)]
        corrects = any(scheme["bias_correction"] for scheme in schemes if scheme and "bias_correction" in scheme)
        return activations or corrects or self.require_coverage is not None

    def to_dict(self) -> dict[str, Any]:
        """The recipe as values that TOML and JSON can hold."""
        values = {
            "name": self.name,
            "weights": self.weights and plain_fields(vars(self.weights)),
            "activations": self.activations and plain_fields(vars(self.activations)),
            "rules": [rule.to_dict() for rule in self.rules],
            "require_coverage": self.require_coverage,
        }
        return {key: value for key, value in values.items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "the recipe") -> Recipe:
        """The recipe from the result of ``to_dict``, or from the content of a file; messages name ``source``.

        Raises:
            QuantizerError: an unknown key or value.
        """
        with reading(source, "recipe", data):
            return cls(**cls._read(data, source))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a ``.toml`` or ``.json`` file.

        Raises:
            QuantizerError: another suffix, a text that is not TOML or JSON, or an unknown key or value.
        """
        path = Path(path)
        reader = _for_suffix("from_file", path, _READERS)
        if path.stat().st_size > _LARGEST_FILE:
            rule = f"of at most {_LARGEST_FILE} bytes"
            raise invalid("Recipe.from_file", "file", rule, path.stat().st_size, "rules may hold patterns of names")
        try:
            data = reader(path.read_bytes().decode())
        except (ValueError, RecursionError) as error:
            advice = f"the parser says: {error}"
            raise invalid("Recipe.from_file", "file", f"{path.suffix[1:].upper()} text", str(path), advice) from error
        return cls.from_dict(data, path.name)

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe to a ``.toml`` or ``.json`` file, atomically.

        Raises:
            QuantizerError: another suffix.

        Examples:
            >>> from tempfile import TemporaryDirectory
            >>> recipe = Recipe({"num_bits": 4}, rules=[LayerRule(position="first", skip=True)])
            >>> with TemporaryDirectory() as folder:
            ...     recipe.to_file(f"{folder}/recipe.toml")
            ...     Recipe.from_file(f"{folder}/recipe.toml") == recipe
            True
        """
        path = Path(path)
        data = _for_suffix("to_file", path, _WRITERS)(self.to_dict()).encode()
        write_atomically(path, data)

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Names of the shipped recipes.

        Examples:
            >>> Recipe.presets()
            ('int8_per_channel', 'mixed_w4a8', 'power_of_two_4bit', 'power_of_two_8bit')
        """
        return tuple(sorted(entry.name[:-5] for entry in _PRESETS.iterdir() if entry.name.endswith(".toml")))

    @classmethod
    def preset(cls, name: str) -> Recipe:
        """A shipped recipe.

        Raises:
            QuantizerError: none of that name.

        Examples:
            >>> Recipe.preset("power_of_two_4bit").weights.num_bits
            4
        """
        if name not in cls.presets():
            advice = nearest(name, cls.presets())
            raise invalid("Recipe.preset", "name", "that of a shipped recipe", name, advice)
        return cls.from_dict(tomllib.loads((_PRESETS / f"{name}.toml").read_text("utf-8")), f"preset {name}")


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1


def _for_suffix(method: str, path: Path, by_suffix: Mapping[str, Any]) -> Any:
    if path.suffix.lower() not in by_suffix:
        advice = "both hold the same; choose one"
        raise invalid(f"Recipe.{method}", "path", "that of a .toml or .json file", str(path), advice)
    return by_suffix[path.suffix.lower()]
