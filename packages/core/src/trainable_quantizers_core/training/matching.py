"""Pairs the quantizers in a file with those of a model."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.training.parameter_file import QuantizerState


def match(
    states: Sequence[QuantizerState],
    targets: Sequence[QuantizerState],
    names: Mapping[str, str] | None = None,
) -> list[tuple[QuantizerState, QuantizerState]]:
    """Pair the quantizers of a file with those of a model, in the order of the file.

    1. Layers that ``names`` pairs, by their exact names.
    2. Layers of equal names, where ``.``, ``/`` and ``_`` are alike.
    3. If none of the names is equal, the n-th quantizer of weights with the n-th, and so for activations.

    Several quantizers of a layer are paired by target and attribute, then by target and order.

    Args:
        states: The quantizers in the file.
        targets: The quantizers of the model, described by their present values.
        names: Layer name in the file -> layer name in the model.

    Raises:
        QuantizerError: a name in ``names`` that neither side knows; quantizers without a counterpart; a pair that
            differs in target, method, num_bits, signed, channels or names of variables.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> from mct_quantizers import QuantizationMethod
        >>> conv = QuantizerState(layer="block.conv", attribute="weight", target="weights", quantizer="Q",
        ...                       method=QuantizationMethod.SYMMETRIC, num_bits=4, signed=True, per_channel=False,
        ...                       values={"threshold": np.float32(0.5)})
        >>> [(state, target)] = match([conv], [replace(conv, layer="block_conv", attribute="kernel")])
        >>> f"{state} -> {target}"
        'block.conv.weight -> block_conv.kernel'
    """
    names = names or {}
    _check_names("key of names", names, "a layer of the file", states)
    _check_names("value of names", names.values(), "a layer of the model", targets)
    pairs: dict[int, int] = {}  # positions in states -> positions in targets
    renamed = [names.get(state.layer, state.layer) for state in states]
    exact = [target.layer for target in targets]
    rounds: list[tuple[Sequence[str | None], Sequence[str | None]]] = [
        ([names.get(state.layer) for state in states], exact),
        (renamed, exact),
        (list(map(_normalised, renamed)), list(map(_normalised, exact))),
    ]
    for ours, theirs in rounds:
        for within in (_attribute, _target, lambda _: None):
            _pair(_keys(ours, states, within), _keys(theirs, targets, within), pairs)
    if not pairs and len(states) == len(targets):
        _pair(list(map(_target, states)), list(map(_target, targets)), pairs)
    _check_all_paired(states, targets, pairs)
    matched = [(state, targets[pairs[position]]) for position, state in enumerate(states)]
    for state, target in matched:
        _check_agreement(state, target)
    return matched


def _attribute(state: QuantizerState) -> Hashable:
    return state.target, state.attribute


def _target(state: QuantizerState) -> Hashable:
    return state.target


def _keys(
    layers: Iterable[str | None], states: Iterable[QuantizerState], within: Callable[[QuantizerState], Hashable]
) -> list[Hashable]:
    return [(layer, within(state)) for layer, state in zip(layers, states, strict=True)]


def _pair(ours: Sequence[Hashable], theirs: Sequence[Hashable], pairs: dict[int, int]) -> None:
    """Add the pairs of equal keys among what is left, in order."""
    waiting: dict[Hashable, deque[int]] = defaultdict(deque)
    taken = set(pairs.values())
    for position, key in enumerate(theirs):
        if position not in taken:
            waiting[key].append(position)
    for position, key in enumerate(ours):
        if position not in pairs and waiting[key]:
            pairs[position] = waiting[key].popleft()


def _normalised(layer: str) -> str:
    return layer.replace("/", ".").replace("_", ".")


def _check_names(argument: str, given: Iterable[str], rule: str, states: Sequence[QuantizerState]) -> None:
    known = list(dict.fromkeys(state.layer for state in states))
    for name in given:
        if name not in known:
            raise invalid("match", argument, rule, name, nearest(name, known))


def _check_all_paired(
    states: Sequence[QuantizerState], targets: Sequence[QuantizerState], pairs: Mapping[int, int]
) -> None:
    left = [state for position, state in enumerate(states) if position not in pairs]
    open_ = [target for position, target in enumerate(targets) if position not in pairs.values()]
    for side, lonely, others in (("file", left, open_ or targets), ("model", open_, left or states)):
        if lonely:
            first = f"for the first, {nearest(lonely[0].layer, [other.layer for other in others])}"
            advice = f"{first}; pair layers of different names by names={{file layer: model layer}}"
            shown = [f"{state} ({state.target})" for state in lonely]
            raise invalid("match", f"quantizers of the {side}", "paired one to one", shown, advice)


def _check_agreement(state: QuantizerState, target: QuantizerState) -> None:
    def facts(of: QuantizerState) -> dict[str, Any]:
        same = {name: getattr(of, name) for name in ("target", "num_bits", "signed", "channels")}
        return {"method": of.method.name, **same, "variables": sorted(of.values)}

    ours, theirs = facts(state), facts(target)
    differing = [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        argument = f"{state} of the file and {target} of the model"
        advice = "quantize both alike, or pair other layers by names="
        raise invalid("match", argument, "quantized alike", ", ".join(differing), advice)
