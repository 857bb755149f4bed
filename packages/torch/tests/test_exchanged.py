"""A layer that is exchanged after ``prepare`` is missed: nothing computes in float that was quantized."""

import copy
import io
import warnings

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_builders import wrapped

WEIGHTS = tq.Recipe({"num_bits": 4})
ALL = tq.Recipe({"num_bits": 4}, {"num_bits": 8})
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
        self.norm, self.blocks = nn.BatchNorm1d(4), nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.fc = nn.Linear(4, 3)

    def forward(self, x, skips=False):
        x = self.norm(torch.relu(self.body(x))) * 2
        for block in self.blocks:
            x = torch.relu(block(x))
        return x if skips else self.fc(x)


class Adapter(nn.Module):
    """A layer, and what is learned beside it."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.down, self.up = nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def prepared(recipe=ALL):
    torch.manual_seed(0)
    return tq.prepare(Network(), recipe, [X], verbose=False).eval()


IN_FLOAT = {
    "fc": lambda model: setattr(model, "fc", nn.Linear(4, 3)),
    "body.0": lambda model: model.body.__setitem__(0, nn.Linear(4, 4)),
    "body.2": lambda model: model.body.register_module("2", nn.Linear(4, 4)),
    "blocks.1": lambda model: model.blocks.__setitem__(1, nn.Linear(4, 4)),
    "blocks.0, blocks.1": lambda model: setattr(model, "blocks", nn.ModuleList([nn.Linear(4, 4)])),
    "body.0, body.2": lambda model: setattr(model, "body", nn.Sequential(nn.Linear(4, 4))),
}


@pytest.mark.parametrize("path", IN_FLOAT)
def test_a_float_layer_in_the_place_of_a_quantized_one_is_an_error_at_once(path):
    model = prepared(WEIGHTS)
    IN_FLOAT[path](model)
    for use in (lambda: model(X), lambda: tq.convert(model), lambda: tq.report(model)):
        with pytest.raises(tq.QuantizerError, match=f"prepare: {path} must be the layer that it quantized, got "):
            use()


def test_a_norm_whose_result_was_quantized_is_missed_too():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(prepared())
    with pytest.raises(tq.QuantizerError, match="norm must be the layer that it quantized, got 'SyncBatchNorm'"):
        model(X)


def test_compiled_code_misses_it_as_well():
    model = prepared(WEIGHTS)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    model.fc = nn.Linear(4, 3)
    with pytest.raises(tq.QuantizerError, match="fc must be the layer that it quantized"):
        compiled(X)


def in_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("again", [copy.deepcopy, in_a_file])
def test_copies_and_files_miss_their_own_layers(again):
    model = prepared()
    other = again(model)
    other.fc = nn.Linear(4, 3)
    with pytest.raises(tq.QuantizerError, match="fc must be the layer"):
        other(X)
    assert torch.equal(again(model)(X), model(X))


REMOVED = {
    "fc": (lambda model: setattr(model, "fc", nn.Identity()), {}),
    "body.1": (lambda model: setattr(model.body, "1", nn.ReLU()), {}),
    "fc ": (lambda model: delattr(model, "fc"), {"skips": True}),
    "blocks.1": (lambda model: model.blocks.__delitem__(1), {}),
}


@pytest.mark.parametrize("path", REMOVED)
def test_what_is_removed_is_a_warning(path):
    model = prepared()
    remove, options = REMOVED[path]
    remove(model)
    with pytest.warns(UserWarning, match=f"^{path.strip()}: replaced or removed after prepare"):
        model(X, **options)


KEPT = {
    "nothing": lambda model: None,
    "layers in another order": lambda model: setattr(model, "blocks", nn.ModuleList(reversed(model.blocks))),
    "a wrapper of one's own": lambda model: setattr(model, "fc", wrapped(nn.Linear(4, 3))),
    "a norm": lambda model: setattr(model, "other_norm", nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("what", KEPT)
def test_layers_that_are_still_held_are_no_error(what):
    model = prepared(WEIGHTS)
    KEPT[what](model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*after prepare.*")
        model(X)
        tq.convert(model)


ADDED = {
    "blocks.2": lambda model: model.blocks.append(nn.Linear(4, 4)),
    "fc.down, fc.up": lambda model: setattr(model, "fc", Adapter(model.fc)),
    "twin": lambda model: setattr(model, "twin", nn.Linear(4, 3)),
}


@pytest.mark.parametrize("path", ADDED)
@pytest.mark.parametrize("again", [lambda model: model, copy.deepcopy, in_a_file])
def test_convert_warns_of_a_layer_that_was_added(path, again):
    model = again(prepared(WEIGHTS))
    ADDED[path](model)
    model(X)
    with pytest.warns(UserWarning, match=f"^{path}: added after prepare, and in float: put it"):
        deployed = tq.convert(model)
    assert torch.equal(deployed(X), model.eval()(X))


def test_what_holds_a_prepared_model_beside_layers_of_its_own_is_no_warning():
    around = nn.Sequential(nn.Linear(4, 4), prepared(WEIGHTS))
    around.token = nn.Parameter(torch.zeros(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deployed = tq.convert(around.eval())
    assert torch.equal(deployed(X), around(X))


def test_a_converted_model_looks_no_more():
    converted = tq.convert(prepared()).modules()
    assert not any(module._forward_pre_hooks or "_held_by_prepare" in vars(module) for module in converted)
