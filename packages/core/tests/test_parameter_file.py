import json
import struct
import sys

import numpy as np
import pytest
from mct_quantizers import QuantizationMethod
from safetensors.numpy import load_file, save_file
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.training.parameter_file import QuantizerState, load_parameters, save_parameters

POT, SYMMETRIC, UNIFORM = (QuantizationMethod[n] for n in ("POWER_OF_TWO", "SYMMETRIC", "UNIFORM"))


def weights(layer="conv", attribute="weight", **changes):
    facts = {"target": "weights", "quantizer": "LSQ", "method": SYMMETRIC, "num_bits": 4, "signed": True}
    values = {"per_channel": True, "values": {"threshold": np.float32([0.5, 0.1])}}
    return QuantizerState(**{"layer": layer, "attribute": attribute, **facts, **values, **changes})


def activation(layer="relu", attribute="output", **changes):
    ends = {"min_range": np.float32(-0.1), "max_range": np.float32(1e-38)}
    uniform = {"target": "activation", "method": UNIFORM, "per_channel": False, "values": ends}
    return weights(layer, attribute, **{**uniform, **changes})


HARD = np.float32([0.1, 1e-45, -0.0, 3.4028235e38, 2.0**-16])
STATES = [
    weights(config={"quantization_config": {"type": "X", "n": [1, 2.5, None]}, "freeze_quant_params": False}),
    weights("a/b.c", "kernel", method=POT, values={"threshold": HARD}),
    weights("a/b.c", "kernel"),  # the same name twice
    weights("strided", values={"threshold": np.stack([HARD, HARD], 1)[:, 0]}),
    activation("ключ \"'\n"),
    activation(signed=False, num_bits=16),
]


def saved(tmp_path, *states):
    save_parameters(tmp_path / "learned.safetensors", states or STATES, framework="PyTorch")
    return tmp_path / "learned.safetensors"


# One file


def test_states_come_back_bit_for_bit(tmp_path):
    loaded = load_parameters(saved(tmp_path))
    assert len(loaded) == len(STATES)
    for state, found in zip(STATES, loaded, strict=True):
        assert {**vars(found), "values": None} == {**vars(state), "values": None}
        assert found.values.keys() == state.values.keys()
        for name, value in state.values.items():
            assert found.values[name].dtype == np.float32
            assert found.values[name].shape == value.shape
            assert found.values[name].tobytes() == value.tobytes()


def test_a_model_without_quantizers_has_a_file_too(tmp_path):
    save_parameters(tmp_path / "none", [])
    assert load_parameters(tmp_path / "none") == ()


def test_any_safetensors_reader_can_look_inside(tmp_path):
    path = saved(tmp_path)
    assert load_file(path)["1.threshold"].tolist() == HARD.tolist()
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert (metadata["format"], metadata["framework"]) == ("trainable-quantizers 1", "PyTorch")
    first = json.loads(metadata["quantizers"])[0]
    assert (first["layer"], first["method"], first["channels"]) == ("conv", "SYMMETRIC", 2)


def test_a_failure_while_writing_leaves_the_older_file(tmp_path, monkeypatch):
    path = saved(tmp_path, weights())
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("module", ["safetensors", "safetensors.numpy"])
def test_without_safetensors_the_message_says_what_to_install(tmp_path, monkeypatch, module):
    path = saved(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        save_parameters(path, STATES) if "numpy" in module else load_parameters(path)
    message = 'safetensors is needed here, but not installed: pip install "trainable-quantizers-core[portability]"'
    assert str(caught.value) == message


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_parameters(tmp_path / "absent")


STATE_MISTAKES = {
    "float64": (
        {"values": {"threshold": np.array([0.5])}},
        "QuantizerState: threshold of conv.weight must be float32, got 'float64'; convert it without loss.",
    ),
    "shape": (
        {"per_channel": False},
        "QuantizerState: threshold of conv.weight must be of shape (), got (2,); per_channel decides the shape.",
    ),
    "NaN": (
        {"values": {"threshold": np.float32([0.5, np.nan])}},
        "QuantizerState: threshold of conv.weight must be finite, got [0.5, nan]; "
        "training diverged, or the file is damaged.",
    ),
    "no channels": (
        {"values": {"threshold": np.float32(0.5)}},
        "QuantizerState: threshold of conv.weight must be of shape (channels,), got (); per_channel decides the shape.",
    ),
    "target": (
        {"target": "activations"},
        "QuantizerState: target must be 'weights' or 'activation', got 'activations'; did you mean 'activation'?.",
    ),
    "bits": (
        {"num_bits": "4"},
        "QuantizerState: num_bits must be of type int, got '4'; pass int, not str.",
    ),
    "method": (
        {"method": "SYMMETRIC"},
        "QuantizerState: method must be of type QuantizationMethod, got 'SYMMETRIC'; pass QuantizationMethod, not str.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), STATE_MISTAKES.values(), ids=STATE_MISTAKES)
def test_states_that_cannot_be_are_refused(changes, message):
    with pytest.raises(QuantizerError) as caught:
        weights(**changes)
    assert str(caught.value) == message


def test_configurations_beyond_json_are_refused(tmp_path):
    with pytest.raises(QuantizerError) as caught:
        save_parameters(tmp_path / "file", [weights(config={"a": print})])
    assert str(caught.value).startswith("save_parameters: config must be what JSON holds, got ")
    assert not list(tmp_path.iterdir())


# Damaged and foreign files


def rewritten(path, facts=None, tensors=None, **metadata):
    """The file of one state with changed facts, tensors or metadata; None removes an entry."""
    saved_facts = {**vars(weights()), "method": "SYMMETRIC", "values": ["threshold"], "channels": 2}
    facts = {key: value for key, value in {**saved_facts, **(facts or {})}.items() if value is not None}
    whole = {"format": "trainable-quantizers 1", "quantizers": json.dumps([facts]), **metadata}
    whole = {key: value for key, value in whole.items() if value is not None}
    save_file({"0.threshold": np.float32([0.5, 0.1])} if tensors is None else tensors, path, whole)


DAMAGE = {
    "empty": (lambda p: p.write_bytes(b""), "load_parameters: path must be a safetensors file, got '{path}'; it is"),
    "text": (lambda p: p.write_text("no"), "load_parameters: path must be a safetensors file, got '{path}'; it is"),
    "truncated": (
        lambda p: p.write_bytes(p.read_bytes()[:-3]),
        "load_parameters: path must be a safetensors file, got '{path}'; it is damaged: ",
    ),
    "huge header": (
        lambda p: p.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
        "load_parameters: path must be a safetensors file, got '{path}'; it is damaged: ",
    ),
    "foreign": (
        lambda p: save_file({"a": np.zeros(1)}, p),
        "load_parameters: format must be 'trainable-quantizers 1', got None in {path}; "
        "read it with the version that wrote it, or write it with save_parameters.",
    ),
    "other version": (
        lambda p: rewritten(p, format="trainable-quantizers 2"),
        "load_parameters: format must be 'trainable-quantizers 1', got 'trainable-quantizers 2' in {path}; "
        "read it with the version that wrote it, or write it with save_parameters.",
    ),
    "no quantizers": (
        lambda p: rewritten(p, quantizers=None),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; "
        "it is damaged: KeyError: 'quantizers'.",
    ),
    "no JSON": (
        lambda p: rewritten(p, quantizers="["),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; "
        "it is damaged: JSONDecodeError: ",
    ),
    "no list": (
        lambda p: rewritten(p, quantizers="3"),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; it is damaged: TypeError: ",
    ),
    "list of numbers": (
        lambda p: rewritten(p, quantizers="[3]"),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; it is damaged: TypeError: ",
    ),
    "deep JSON": (
        lambda p: rewritten(p, quantizers="[" * 100_000),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; it is damaged: ",
    ),
    "missing tensor": (
        lambda p: rewritten(p, tensors={"0.min_range": np.float32([1, 2])}),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; "
        "it is damaged: KeyError: '0.threshold'.",
    ),
    "missing fact": (
        lambda p: rewritten(p, {"num_bits": None}),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; it is damaged: TypeError: ",
    ),
    "unknown method": (
        lambda p: rewritten(p, {"method": "MAGIC"}),
        "load_parameters: quantizers must be as save_parameters writes them, got '{path}'; "
        "it is damaged: KeyError: 'MAGIC'.",
    ),
    "NaN": (
        lambda p: rewritten(p, tensors={"0.threshold": np.float32([np.nan, 1])}),
        "{path}: QuantizerState: threshold of conv.weight must be finite, got [nan, 1.0]; "
        "training diverged, or the file is damaged.",
    ),
    "other type": (
        lambda p: rewritten(p, tensors={"0.threshold": np.float16([1, 1])}),
        "{path}: QuantizerState: threshold of conv.weight must be float32, got 'float16'; convert it without loss.",
    ),
    "other channels": (
        lambda p: rewritten(p, tensors={"0.threshold": np.float32([1, 1, 1])}),
        "{path}: load_parameters: channels of conv.weight must be 2, got 3; the file is damaged.",
    ),
    "bits as text": (
        lambda p: rewritten(p, {"num_bits": "4"}),
        "{path}: QuantizerState: num_bits must be of type int, got '4'; pass int, not str.",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_and_foreign_files_are_refused_by_name(tmp_path, damage, message):
    path = saved(tmp_path, weights())
    damage(path)
    with pytest.raises(QuantizerError) as caught:
        load_parameters(path)
    assert str(caught.value).startswith(message.format(path=path))


def test_undamaged_files_are_accepted(tmp_path):
    rewritten(tmp_path / "file")
    assert str(load_parameters(tmp_path / "file")[0]) == "conv.weight"


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_refused_or_harmless(tmp_path, seed):
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    for position in np.random.default_rng(seed).integers(0, len(content), 5):
        content[position] ^= 0x15
    path.write_bytes(content)
    try:
        load_parameters(path)
    except QuantizerError as error:
        assert str(path) in str(error)
