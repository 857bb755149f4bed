"""What is trained is what is deployed: whole models, those of mct-quantizers' own wrapper too."""

import io

import mct_quantizers
import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_builders import Method, activation_config, images, network, train, weights_config

PLAIN = (mct_quantizers.PytorchQuantizationWrapper, mct_quantizers.PytorchActivationQuantizationHolder)


def test_converted_model_has_the_same_outputs_after_saving_and_loading():
    model = network()
    train(model, 10)
    converted = tq.convert(model)
    buffer = io.BytesIO()
    torch.save(converted, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for x in (images(1), images(2) * 100, torch.zeros(1, 2, 8, 8)):
        expected = model.eval()(x)
        assert torch.equal(converted.eval()(x), expected)
        assert torch.equal(loaded.eval()(x), expected)


def test_conversion_leaves_the_trained_model_alone():
    model, twin = network(), network()
    train(model)
    train(twin)
    tq.convert(model)
    assert train(model, seed=7) == train(twin, seed=7)


def test_nothing_trainable_or_stale_is_left():
    model = network()
    train(model)
    converted = tq.convert(model)
    assert not [name for name in converted.state_dict() if "threshold" in name]
    assert not any(parameter.requires_grad for parameter in converted.parameters())
    held = [module for module in converted.modules() if isinstance(module, PLAIN)]
    assert len(held) == 6
    assert all(type(module) in PLAIN for module in held)


def own_wrappers() -> nn.Sequential:
    torch.manual_seed(0)
    uniform = {"range_min": 0.1, "range_max": 1.0}
    quantizer = tq.STEUniformActivationTrainableQuantizer(
        activation_config(uniform, activation_quantization_method=Method.UNIFORM)
    )
    weights = {"weight": tq.LSQSymmetricWeightsTrainableQuantizer(weights_config())}
    return nn.Sequential(
        nn.Sequential(mct_quantizers.PytorchQuantizationWrapper(nn.Conv2d(2, 4, 3), weights), nn.ReLU()),
        mct_quantizers.PytorchActivationQuantizationHolder(quantizer),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )


def test_quantizers_train_and_convert_inside_the_wrappers_of_mct_quantizers():
    model = own_wrappers()
    losses = train(model, 20)
    assert losses[-1] < losses[0]
    threshold = model[0][0].weights_quantizers["weight"].get_quantizer_variable("threshold")
    assert not torch.equal(threshold, torch.ones(4))
    expected = model.eval()(images(9))
    converted = tq.convert(model).eval()
    assert torch.equal(converted(images(9)), expected)
    assert sorted(converted.state_dict()) == ["0.0.layer.bias", "0.0.weight", "3.bias", "3.weight"]
    assert {name for name, parameter in converted.named_parameters() if parameter.requires_grad} == {
        "3.weight",
        "3.bias",
    }


@pytest.mark.parametrize("assign", [False, True])
def test_reloaded_state_is_used_inside_the_wrappers_of_mct_quantizers(assign):
    model, fresh = own_wrappers(), own_wrappers()
    train(model)
    fresh.load_state_dict(model.state_dict(), assign=assign)
    quantizer = fresh[1].activation_holder_quantizer
    assert quantizer.get_quantizer_variable("max_range") is fresh[1].activation_holder_quantizer_out_max_range
    x = torch.linspace(-1, 3, 50)
    assert torch.equal(fresh[1](x), model[1](x))


def test_a_shared_wrapper_stays_shared():
    shared = network()[0]
    model = nn.ModuleList([shared, shared])
    converted = tq.convert(model)
    assert converted[0] is converted[1]


def test_the_model_itself_may_be_the_wrapper():
    wrapper = network()[0]
    converted = tq.convert(wrapper)
    assert type(converted) is mct_quantizers.PytorchQuantizationWrapper
    assert isinstance(wrapper, tq.PytorchTrainableQuantizationWrapper)
    assert torch.equal(converted(images()), wrapper(images()))


def test_hooks_of_forwards_stay():
    model = network()
    for at in (0, 2):
        model[at].register_forward_hook(lambda module, args, output: output * 2)
        model[at].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert torch.equal(tq.convert(model)(images()), model(images()))


CHANGES = {
    "6.bias": lambda model, other: setattr(model[6], "bias", nn.Parameter(torch.zeros(5))),
    "0.stride": lambda model, other: setattr(model[0], "stride", (2, 2)),
    "6.weight": lambda model, other: setattr(model[6], "weight", nn.Parameter(torch.zeros(5, 147))),
    r"\d\.\w+": lambda model, other: model.load_state_dict(other.state_dict(), assign=True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_that_a_converted_layer_does_not_see_are_found_before_it_is_deployed(name, tmp_path):
    trained, other = network(), network(seed=1)
    model = tq.convert(trained)
    assert tq.verify(trained, model, [images()]).identical
    CHANGES[name](model, tq.convert(other))
    for use in (
        lambda: tq.export(model, tmp_path / "model.pt2", images()),
        lambda: tq.to_integer(model, images()),
        lambda: tq.verify(trained, model, [images()]),
    ):
        with pytest.raises(tq.QuantizerError, match=f"{name} must be as it was converted, got .*; change the float"):
            use()
