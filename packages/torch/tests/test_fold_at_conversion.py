"""Batch norms that normalize while the model trains and fold at conversion."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from trainable_quantizers_torch.inventory import quantizers_of

WEIGHTS = {"num_bits": 4, "method": "symmetric", "calibration": "min_max"}
RECIPE = tq.Recipe(WEIGHTS, {"num_bits": 8})
FINE = tq.Recipe({**WEIGHTS, "num_bits": 16}, {"num_bits": 16})
POWER_OF_TWO = tq.Recipe({"num_bits": 8, "method": "power_of_two"}, {"num_bits": 8, "method": "power_of_two"})
INTEGER = tq.Recipe.preset("power_of_two_8bit")
X = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class NormWithRelu(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


LAYERS = {
    "conv": lambda: [nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()],
    "conv with bias, no activation": lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)],
    "depthwise": lambda: [nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU6()],
    "transposed": lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU()],
    "linear": lambda: [nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6), nn.ReLU()],
    "without gamma and beta": lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)],
    "norm with activation": lambda: [nn.Conv2d(4, 6, 3), NormWithRelu(6)],
}
ALL = pytest.mark.parametrize("name", LAYERS)


def norm_of(model):
    return next(each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm))


def network(name="conv"):
    torch.manual_seed(0)
    made = nn.Sequential(*LAYERS[name](), nn.Flatten(), nn.LazyLinear(3))
    made(X)
    norm = norm_of(made)
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    if norm.affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return made.eval()


def prepared(name="conv", recipe=RECIPE, fold="at_conversion", **options):
    return tq.prepare(network(name), recipe, [X], fold_batch_norm=fold, verbose=False, **options).eval()


def without(model, *attributes):
    """The model with its quantizers set aside."""
    for each in quantizers_of(model):
        each.quantizer.enabled = each.quantizer.enabled and each.attribute not in attributes
    return model


def trained(model, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), 0.005)
    losses = []
    for _ in range(steps):
        loss = model.train()(X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize(("name", "recipe"), [(name, RECIPE) for name in LAYERS] + [("depthwise", POWER_OF_TWO)])
def test_the_model_begins_as_one_whose_norms_were_folded_first(name, recipe):
    model, other = prepared(name, recipe), prepared(name, recipe, True)
    assert torch.equal(model(X), other(X))
    for one, two in zip(quantizers_of(model), quantizers_of(other), strict=True):
        for variable in one.quantizer.specification.initial:
            np.testing.assert_array_equal(one.quantizer.read_variable(variable), two.quantizer.read_variable(variable))


@ALL
def test_training_normalizes_by_the_batch_as_the_float_model_does(name):
    model, other = without(prepared(name, FINE), "output"), network(name)
    torch.testing.assert_close(model.train()(X), other.train()(X), rtol=1e-3, atol=1e-3)
    ours, theirs = norm_of(model), norm_of(other)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-3, atol=1e-3)
    assert ours.num_batches_tracked == theirs.num_batches_tracked


@pytest.mark.parametrize(("name", "recipe"), [(name, RECIPE) for name in LAYERS] + [("depthwise", INTEGER)])
def test_the_converted_model_gives_what_the_trained_one_gives_and_has_no_norm(name, recipe):
    model = prepared(name, recipe)
    before = model(X)
    losses = trained(model)
    assert losses[-1] < losses[0]
    for mode in (True, False):
        converted = tq.convert(model.train(mode))
        assert torch.equal(converted.eval()(X), model.eval()(X))
        assert torch.equal(converted.train()(X), model(X))
        assert not torch.equal(model(X), before)
        norms = [each for each in converted.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        assert not norms or name == "norm with activation"


def test_results_are_quantized_behind_the_norm_in_training():
    model = prepared("conv with bias, no activation")
    seen = []
    model[1].register_forward_hook(lambda module, args, result: seen.append(result))
    model.train()(X)
    assert len(seen[0].detach().unique()) <= 256
    gamma, beta = model[1].weight.detach(), model[1].bias.detach()
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), beta, rtol=0, atol=0.05)
    torch.testing.assert_close(seen[0].std((0, 2, 3)), gamma.abs(), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ["conv", "conv with bias, no activation", "norm with activation"])
def test_a_frozen_norm_is_folded_while_the_rest_trains(name):
    model = prepared(name, FINE)
    evaluated, norm = model(X), norm_of(model)
    mean = norm.running_mean.clone()
    model.train()
    norm.eval()
    torch.testing.assert_close(model(X), evaluated)
    assert torch.equal(norm.running_mean, mean)
    model(X).sum().backward()
    assert all(each.grad.abs().sum() > 0 for each in (norm.weight, norm.bias, model[0].layer.weight))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_formula(training):
    """Of weights without quantizers, whatever the way through the factor and back."""
    model, other = without(prepared("transposed"), "output", "weight"), network("transposed")
    for each in (model.train(training), other.train(training)):
        each(X).square().sum().backward()
    for name, parameter in other.named_parameters():
        ours = dict(model.named_parameters())[name if name.startswith("1.") else name.replace(".", ".layer.", 1)]
        torch.testing.assert_close(ours.grad, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_a_channel_without_factor_gives_beta_and_its_gamma_does_not_move(size):
    model = prepared("conv with bias, no activation")
    with torch.no_grad():
        model[1].weight[2] = size
    channels = []
    model[1].register_forward_hook(lambda module, args, result: channels.append(result[:, 2]))
    for training in (False, True):
        model.zero_grad()
        model.train(training)(X).sum().backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
    assert model[1].weight.grad[2] == 0
    for channel in channels:
        torch.testing.assert_close(channel, model[1].bias[2].expand_as(channel), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "restored",
    [
        lambda model: copy.deepcopy(model),
        lambda model: (other := prepared(), other.load_state_dict(model.state_dict()))[0],
        lambda model: torch.load(pickled(model), weights_only=False),
    ],
    ids=["copied", "state dict", "pickled"],
)
def test_training_resumes_exactly(restored):
    model = prepared()
    trained(model)
    other = restored(model)
    assert torch.equal(other.eval()(X), model.eval()(X))
    assert trained(other) == trained(model)
    assert torch.equal(other.eval()(X), model.eval()(X))


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_statistics_anew_leave_the_weights_until_the_last_batch():
    model = prepared("conv", FINE)
    seen = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tq.reestimate_batch_norm(model, X.split(4))
    values = torch.stack([each.mean((0, 2, 3)) for each in seen])
    torch.testing.assert_close(model[1].running_mean, values.mean(0))
    torch.testing.assert_close(seen[0], network()[0](X[:4]), rtol=1e-3, atol=1e-3)
    assert torch.equal(tq.convert(model.eval())(X), model(X))


def test_the_integer_program_is_whole():
    model = prepared("depthwise", INTEGER)
    trained(model)
    program = tq.to_integer(tq.convert(model.eval()), X[:1])
    np.testing.assert_allclose(program(X.numpy()), model(X).detach().numpy(), atol=1e-6)


def test_corrected_biases_are_those_of_norms_that_were_folded_first():
    model, other = prepared("depthwise", INTEGER), prepared("depthwise", INTEGER, True)
    ours, theirs = (tq.convert(each)[0].layer.bias for each in (model, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not torch.equal(model[1].running_mean, network("depthwise")[1].running_mean)


def test_reports_read_the_folded_weight():
    model = prepared()
    wrapper = model[0]
    ((_, weight, _),) = wrapper.get_weights_vars()
    norm = model[1]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(weight, wrapper.layer.weight * factor.reshape(-1, 1, 1, 1))
    assert torch.equal(wrapper.weight, tq.convert(model)[0].weight)
    assert {row.layer: row.reason for row in tq.summary(model).rows}["1"] == "folded into 0 at conversion"
    assert "save, load and run the converted model" not in tq.summary(model).runtime


def test_a_layer_that_is_left_in_float_takes_its_norm_in_at_once():
    recipe = tq.Recipe(WEIGHTS, {"num_bits": 8}, rules=[{"name": "0", "skip": True}])
    model, other = (prepared("conv", recipe, fold) for fold in ("at_conversion", True))
    assert torch.equal(model(X), other(X))
    assert isinstance(model[1], nn.Identity)
    assert torch.equal(tq.convert(model)(X), model(X))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prepared(fold="later"), "False, True or 'at_conversion'"),
        (lambda: prepared(equalize=True), "use fold_batch_norm=True"),
        (lambda: tq.reconstruct(prepared(), [X], 5), "prepare with fold_batch_norm=True"),
    ],
    ids=["another word", "equalize", "reconstruct"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(tq.QuantizerError, match=message):
        call()


def test_compiled_training_gives_the_same():
    model, other = prepared(), prepared()
    compiled = torch.compile(other, backend="eager")
    for training, _ in itertools.product((True, False), range(2)):
        torch.testing.assert_close(compiled.train(training)(X), model.train(training)(X))
