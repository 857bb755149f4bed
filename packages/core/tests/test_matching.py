import numpy as np
import pytest
from mct_quantizers import QuantizationMethod
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.training.matching import match
from trainable_quantizers_core.training.parameter_file import QuantizerState


def state(name, **changes):
    """Weights, or an activation when the attribute is ``output``."""
    layer, attribute = name.rsplit(":")
    facts = {"quantizer": "LSQ", "method": QuantizationMethod.SYMMETRIC, "num_bits": 4, "signed": True}
    values = {"per_channel": True, "values": {"threshold": np.float32([0.5, 0.1])}}
    target = "activation" if attribute == "output" else "weights"
    return QuantizerState(layer=layer, attribute=attribute, target=target, **{**facts, **values, **changes})


MATCHES = {
    "nothing": ("", "", {}, ""),
    "equal names": ("a:weight b:weight", "b:kernel a:kernel", {}, "a:kernel b:kernel"),
    "separators alike": ("b.0.c:w x/y:w", "x.y:k b_0/c:k", {}, "b_0/c:k x.y:k"),
    "exact before alike": ("a_b:w a.b:w", "a.b:k a_b:k", {}, "a_b:k a.b:k"),
    "in order": ("a:weight b:weight", "x:kernel y:kernel", {}, "x:kernel y:kernel"),
    "in order of each target": ("a:w r:output b:w", "x:k y:k z:output", {}, "x:k z:output y:k"),
    "names first": ("a:w b:w", "a:k b:k", {"a": "b", "b": "a"}, "b:k a:k"),
    "names and equal names": ("a:w b:w", "b:k x:k", {"a": "x"}, "x:k b:k"),
    "equal attributes first": ("a:bias a:weight", "a:weight a:bias", {}, "a:bias a:weight"),
    "several of a layer": ("a:output a:weight a:bias", "a:kernel a:bias a:output", {}, "a:output a:kernel a:bias"),
}


@pytest.mark.parametrize(("states", "targets", "names", "expected"), MATCHES.values(), ids=MATCHES)
def test_pairs(states, targets, names, expected):
    states, targets = ([state(name) for name in text.split()] for text in (states, targets))
    pairs = match(states, targets, names)
    assert [of_file for of_file, _ in pairs] == states
    assert [f"{target.layer}:{target.attribute}" for _, target in pairs] == expected.split()


def test_quantizers_of_the_same_name_are_paired_in_order():
    states, targets = ([state("a:w"), state("a:w")] for _ in range(2))
    assert match(states, targets) == list(zip(states, targets, strict=True))


CLASH = "match: a.weight of the file and a.kernel of the model must be quantized alike, got"
ADVICE = "quantize both alike, or pair other layers by names=."
THREE = {"threshold": np.float32([1, 2, 3])}
ENDS = {"min_range": np.float32([-1, -1]), "max_range": np.float32([1, 1])}
CLASHES = {
    "bits": ({"num_bits": 8}, f"{CLASH} 'num_bits 4 and 8'; {ADVICE}"),
    "sign": ({"signed": False}, f"{CLASH} 'signed True and False'; {ADVICE}"),
    "channels": ({"values": THREE}, f"{CLASH} 'channels 2 and 3'; {ADVICE}"),
    "granularity": (
        {"per_channel": False, "values": {"threshold": np.float32(1)}},
        f"{CLASH} 'channels 2 and None'; {ADVICE}",
    ),
    "method": (
        {"method": QuantizationMethod.POWER_OF_TWO},
        f"{CLASH} 'method SYMMETRIC and POWER_OF_TWO'; {ADVICE}",
    ),
    "variables": (
        {"values": ENDS},
        f"{CLASH} \"variables ['threshold'] and ['max_range', 'min_range']\"; {ADVICE}",
    ),
    "several": ({"num_bits": 8, "signed": False}, f"{CLASH} 'num_bits 4 and 8, signed True and False'; {ADVICE}"),
}


@pytest.mark.parametrize(("changes", "message"), CLASHES.values(), ids=CLASHES)
def test_pairs_that_differ_are_named_with_what_differs(changes, message):
    with pytest.raises(QuantizerError) as caught:
        match([state("a:weight")], [state("a:kernel", **changes)])
    assert str(caught.value) == message


MISTAKES = {
    "left in the file": (
        "conv1:weight conv2:weight",
        "conv1:kernel",
        {},
        "match: quantizers of the file must be paired one to one, got ['conv2.weight (weights)']; for the first, "
        "did you mean 'conv1'?; pair layers of different names by names={file layer: model layer}.",
    ),
    "left in the model": (
        "conv1:weight",
        "conv1:kernel relu:output",
        {},
        "match: quantizers of the model must be paired one to one, got ['relu.output (activation)']; for the first, "
        "known: conv1; pair layers of different names by names={file layer: model layer}.",
    ),
    "left on both sides": (
        "conv1:weight dense:weight",
        "conv1:kernel dens:kernel",
        {},
        "match: quantizers of the file must be paired one to one, got ['dense.weight (weights)']; for the first, "
        "did you mean 'dens'?; pair layers of different names by names={file layer: model layer}.",
    ),
    "other number": (
        "a:weight",
        "x:kernel y:kernel",
        {},
        "match: quantizers of the file must be paired one to one, got ['a.weight (weights)']; for the first, "
        "known: x, y; pair layers of different names by names={file layer: model layer}.",
    ),
    "other targets": (
        "a:weight b:weight",
        "x:kernel y:output",
        {},
        "match: quantizers of the file must be paired one to one, got ['b.weight (weights)']; for the first, "
        "known: y; pair layers of different names by names={file layer: model layer}.",
    ),
    "other target of a layer": (
        "a:weight",
        "a:output",
        {},
        "match: a.weight of the file and a.output of the model must be quantized alike, "
        "got 'target weights and activation'; quantize both alike, or pair other layers by names=.",
    ),
    "unknown key": (
        "conv1:weight",
        "conv1:kernel",
        {"conv": "conv1"},
        "match: key of names must be a layer of the file, got 'conv'; did you mean 'conv1'?.",
    ),
    "unknown value": (
        "conv1:weight",
        "stem:kernel",
        {"conv1": "stm"},
        "match: value of names must be a layer of the model, got 'stm'; did you mean 'stem'?.",
    ),
    "taken by names": (
        "b:weight a:weight",
        "b:kernel x:kernel",
        {"a": "b"},
        "match: quantizers of the file must be paired one to one, got ['b.weight (weights)']; for the first, "
        "known: x; pair layers of different names by names={file layer: model layer}.",
    ),
}


@pytest.mark.parametrize(("states", "targets", "names", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_has_no_counterpart_is_named(states, targets, names, message):
    with pytest.raises(QuantizerError) as caught:
        match(*([state(name) for name in text.split()] for text in (states, targets)), names)
    assert str(caught.value) == message
