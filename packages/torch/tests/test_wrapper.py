"""State: copied, pickled, averaged, reloaded, moved and converted at any time."""

import copy
import gc
import io
import pickle
import weakref

import mct_quantizers
import pytest
import torch
import torch.nn.utils.prune
import trainable_quantizers_torch as tq
from torch import nn
from torch_builders import Method, activation_config, holder, images, network, train, weights_config, wrapped


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_after_a_training_forward_are_equal_and_independent(duplicate):
    model = network()
    train(model)
    copied = duplicate(model)
    expected = model(images(9))
    assert torch.equal(copied(images(9)), expected)
    assert train(copied, seed=5) == train(model, seed=5)
    with torch.no_grad():
        copied[0].weight_threshold.mul_(4)
        assert not torch.equal(copied(images(9)), model(images(9)))


def test_moving_averages_follow_the_model():
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for seed in range(2):
        train(model, 1, seed)
        average.update_parameters(model)
    assert average.module[0].weight_threshold is not model[0].weight_threshold
    assert average(images()).shape == (6, 5)


@pytest.mark.parametrize("assign", [False, True])
def test_strict_state_dict_round_trip_continues_with_equal_losses(assign):
    model, fresh = network(0), network(1)
    train(model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer), strict=True, assign=assign)
    assert torch.equal(fresh(images(9)), model(images(9)))
    assert train(fresh, seed=3) == train(model, seed=3)


def test_no_graph_is_kept_between_steps():
    model = network()
    x = images().requires_grad_()
    activations = []
    model[1].register_forward_hook(lambda module, args, output: activations.append(weakref.ref(output)))
    model(x).sum().backward()
    gc.collect()
    assert activations[0]() is None
    for module in model.modules():
        for value in vars(module).values():
            assert not (isinstance(value, torch.Tensor) and value.grad_fn is not None)


def test_a_move_is_seen_by_the_next_forward():
    layer = wrapped(nn.Linear(3, 4)).to("meta")
    assert layer.weight_threshold.device.type == "meta"
    assert layer.weights_quantizers["weight"].get_quantizer_variable("threshold") is layer.weight_threshold


def test_overwriting_conversions_are_seen_by_the_next_forward():
    model = network()
    before = model(images())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    train(model, 1)
    assert not torch.equal(model(images()), before)


def test_functional_calls_use_the_parameters_they_are_given():
    layer = wrapped(nn.Linear(3, 4))
    x = torch.randn(5, 3)
    parameters = {name: value.detach() * 3 for name, value in layer.named_parameters()}
    expected = copy.deepcopy(layer)
    expected.load_state_dict(parameters)
    assert torch.equal(torch.func.functional_call(layer, parameters, (x,)), expected(x))


def test_latent_weights_stay_parameters_of_their_layer():
    linear = nn.Linear(3, 4)
    weight = linear.weight
    layer = wrapped(linear)
    layer(torch.randn(2, 3)).sum().backward()
    assert layer.layer.weight is weight
    assert weight.grad is not None
    assert sorted(name for name, _ in layer.named_parameters()) == ["layer.bias", "layer.weight", "weight_threshold"]


def test_attributes_that_are_set_reach_the_layer():
    layer = wrapped(nn.Conv2d(3, 4, 3))
    weight = nn.Parameter(layer.layer.weight.detach() / 2)
    layer.stride, layer.padding_mode, layer.bias, layer.weight = (2, 2), "reflect", None, weight
    assert layer.layer.stride == (2, 2)
    assert layer.layer.padding_mode == "reflect"
    assert layer.layer.bias is None
    assert layer.layer.weight is weight
    assert sorted(layer.state_dict()) == ["_extra_state", "layer.weight", "weight_threshold"]
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, stride=2))


def set_data(layer):
    layer.weight.data = torch.full((4, 3), 0.5)


CHANGES = {
    "data": set_data,
    "init": lambda layer: nn.init.constant_(layer.weight, 0.5),
    "in place": torch.no_grad()(lambda layer: layer.weight.fill_(0.5)),
    "data in place": lambda layer: layer.weight.data.zero_().add_(0.5),
    "an item": torch.no_grad()(lambda layer: layer.weight.__setitem__(slice(None), 0.5)),
    "apply": lambda layer: layer.apply(lambda each: nn.init.constant_(each.weight, 0.5)),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_change_of_a_weight_that_was_read_reaches_the_float_weight(how):
    layer = wrapped(nn.Linear(3, 4))
    CHANGES[how](layer)
    assert torch.equal(layer.layer.weight, torch.full((4, 3), 0.5))
    assert isinstance(layer.layer.weight, nn.Parameter)
    layer.weight.requires_grad_(False)
    assert not layer.layer.weight.requires_grad
    assert type(layer.weight * 2) is torch.Tensor


def saved_and_loaded(tensor):
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    return torch.load(buffer)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved_and_loaded], ids=["deepcopy", "file"])
def test_a_copy_of_a_weight_that_was_read_is_a_plain_tensor(duplicate):
    layer = wrapped(nn.Linear(3, 4))
    copied = duplicate(layer.weight.detach())
    assert type(copied) is torch.Tensor
    assert torch.equal(copied, layer.get_quantized_weights()["weight"])
    before = layer.layer.weight.clone()
    copied.zero_()
    assert torch.equal(layer.layer.weight, before)


def test_a_reset_reaches_the_float_weight():
    layer = wrapped(nn.Linear(3, 4))
    before = layer.layer.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.layer.weight, before)


def test_a_weight_of_another_shape_is_refused():
    layer = wrapped(nn.Linear(3, 4))
    with pytest.raises(tq.QuantizerError, match=r"weight must be of shape \(4, 3\), got \(5, 3\); prepare the model"):
        layer.weight = nn.Parameter(torch.randn(5, 3))


COMPUTED = {
    "prune": lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("how", COMPUTED)
def test_a_weight_that_is_computed_later_is_refused(how):
    layer = wrapped(nn.Linear(3, 4))
    COMPUTED[how](layer.layer)
    with pytest.raises(tq.QuantizerError, match=r"layer.weight must be a parameter, .* before prepare"):
        layer(torch.randn(2, 3))


def test_a_pruned_weight_is_quantized_once_it_is_a_parameter_again():
    layer = wrapped(nn.Linear(3, 4))
    torch.nn.utils.prune.l1_unstructured(layer.layer, "weight", 0.5)
    torch.nn.utils.prune.remove(layer.layer, "weight")
    x = torch.randn(2, 3)
    assert (layer.weight == 0).sum() >= 6
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_a_failing_layer_leaves_its_weight_in_place():
    layer = wrapped(nn.Linear(3, 4))
    weight = layer.layer.weight
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 7))
    assert layer.layer.weight is weight


def test_converted_wrapper_is_plain_and_frozen():
    model = network()
    train(model)
    expected = model.eval()(images(9))
    converted = model[0].convert_to_inferable_quantizers()
    assert converted is model[0]
    assert type(converted) is mct_quantizers.PytorchQuantizationWrapper
    assert sorted(converted.state_dict()) == ["layer.bias", "weight"]
    assert not any(parameter.requires_grad for parameter in converted.parameters())
    assert torch.equal(model(images(9)), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images(9)), expected)


def test_constants_of_functions():
    quantizer = tq.STESymmetricWeightsTrainableQuantizer(weights_config(weights_channels_axis=-1))
    layer = tq.PytorchTrainableQuantizationWrapper(torch.sub, {0: quantizer}, {0: torch.randn(2, 3)})
    x = torch.randn(2, 3)
    expected = layer(x)
    assert torch.equal(expected, layer.get_quantized_weights()[0] - x)
    assert torch.equal(layer.convert_to_inferable_quantizers()(x), expected)


def test_constants_in_a_list():
    quantizer = tq.STESymmetricWeightsTrainableQuantizer(weights_config(weights_per_channel_threshold=False))
    layer = tq.PytorchTrainableQuantizationWrapper(
        torch.cat, {1: quantizer}, {1: torch.ones(1, 3)}, op_call_kwargs={"dim": 0}, is_inputs_as_list=True
    )
    x = torch.randn(2, 3)
    assert torch.equal(layer(x, x)[2], torch.full((3,), 0.875))
    assert torch.equal(layer.convert_to_inferable_quantizers()(x, x), torch.cat([x, torch.full((1, 3), 0.875), x]))


def test_a_disabled_quantizer_leaves_the_weight_in_float():
    linear = nn.Linear(3, 4)
    layer = wrapped(linear, enable_weights_quantization=False)
    x = torch.randn(2, 3)
    expected = linear(x)
    assert torch.equal(layer(x), expected)
    assert sorted(layer.state_dict()) == ["_extra_state", "layer.bias", "layer.weight"]
    assert torch.equal(layer.convert_to_inferable_quantizers()(x), expected)


def test_a_disabled_holder_becomes_the_identity():
    layer = holder(activation_quantization_params={"threshold": 1.0}, enable_activation_quantization=False)
    x = torch.randn(4)
    assert layer(x) is x
    assert type(layer.convert_to_inferable_quantizers()) is nn.Identity


def test_frozen_parameters_stay_frozen_whatever_happens_to_the_model():
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(weights_config(), freeze_quant_params=True)
    layer = tq.PytorchTrainableQuantizationWrapper(nn.Linear(3, 4), {"weight": quantizer})
    layer.requires_grad_(False).requires_grad_(True)
    assert "weight_threshold" in layer.state_dict()
    assert not quantizer.get_trainable_variables(tq.VariableGroup.QPARAMS)
    layer(torch.randn(2, 3)).sum().backward()
    assert layer.weight_threshold.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_and_their_gradients_stay_float32_under_autocast(dtype):
    model = network()
    with torch.autocast("cpu", dtype):
        loss = model(images()).float().sum()
    loss.backward()
    assert model[0].weight_threshold.grad.dtype == torch.float32
    assert model[2].activation_holder_quantizer_out_threshold.grad.dtype == torch.float32


def test_one_quantizer_serves_one_layer():
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(weights_config())
    tq.PytorchTrainableQuantizationWrapper(nn.Linear(3, 4), {"weight": quantizer})
    with pytest.raises(tq.QuantizerError, match="quantizer must be of one layer"):
        tq.PytorchTrainableQuantizationWrapper(nn.Linear(3, 4), {"weight": quantizer})


def quantizer():
    return tq.LSQSymmetricWeightsTrainableQuantizer(weights_config())


WRAPPER = tq.PytorchTrainableQuantizationWrapper
MISTAKES = [
    (lambda: WRAPPER(nn.Linear(3, 4), {"wieght": quantizer()}), "must be a parameter of Linear, got 'wieght'; did you"),
    (lambda: WRAPPER(nn.ReLU(), {"weight": quantizer()}), "must be a parameter of ReLU, got 'weight'; known: none"),
    (lambda: WRAPPER(nn.Linear(3, 4, bias=False), {"bias": quantizer()}), "got 'bias'; known: weight"),
    (lambda: WRAPPER(nn.Linear(3, 4), {"weight": "LSQ"}), "quantizer of 'weight' must be a quantizer, got 'LSQ'"),
    (lambda: WRAPPER(nn.Linear(3, 4), quantizer()), "weights_quantizers must be a dictionary"),
    (lambda: WRAPPER("conv", {}), "module must be a module or a function, got 'conv'"),
    (lambda: WRAPPER(torch.sub, {0: quantizer()}), "weight_values must be given when wrapping a function"),
    (lambda: WRAPPER(torch.sub, {0: quantizer()}, {0: 1.0}), "weight_values must be tensors by position"),
    (lambda: WRAPPER(torch.sub, {0: quantizer()}, {1: torch.ones(2)}), "weights_quantizers must be at positions [1]"),
    (lambda: WRAPPER(nn.Linear(3, 5), {"weight": tq.LSQSymmetricWeightsTrainableQuantizer(
        weights_config({"threshold": [1.0, 2.0]}))}), "threshold must be a scalar, or of shape (5,) or (5, 1), got"),
    (lambda: tq.PytorchTrainableActivationQuantizationHolder("LSQ"), "must be a quantizer, got 'LSQ'"),
    (lambda: tq.convert(nn.Linear(3, 4)), "model must be one that holds trainable quantizers, got 'Linear'"),
    (lambda: holder()(torch.arange(3)), "inputs must be a floating tensor, got torch.int64"),
    (lambda: holder()(torch.ones(2, 2).to_sparse()), "inputs must be a dense tensor, got torch.sparse_coo; convert it"),
    (lambda: holder()(torch.nested.nested_tensor([torch.ones(2)])), "must be a dense tensor, got 'a nested one'"),
    (lambda: holder()([1.0]), "inputs must be a floating tensor, got 'list'"),
    (lambda: tq.LSQSymmetricActivationTrainableQuantizer(activation_config()).convert2inferable(),
     "creates the variables"),
    (lambda: holder(enable_activation_quantization=False).activation_holder_quantizer.convert2inferable(),
     "quantization must be enabled, got False"),
]  # fmt: skip


@pytest.mark.parametrize(("action", "text"), MISTAKES, ids=lambda part: part[:50] if isinstance(part, str) else "")
def test_mistakes_are_explained(action, text):
    with pytest.raises(tq.QuantizerError) as error:
        action()
    assert text in str(error.value)


def test_compiles_without_graph_breaks():
    model = network()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), model(images()))
    compiled(images()).sum().backward()
    assert model[0].weight_threshold.grad is not None


def test_printing_a_model_shows_its_quantizers():
    text = repr(network())
    assert "weight: LSQSymmetricWeightsTrainableQuantizer(SYMMETRIC, 4 bits, signed, channels on axis 0)" in text
    assert "LSQSymmetricActivationTrainableQuantizer(SYMMETRIC, 4 bits, unsigned)" in text


def test_methods_mix_within_a_wrapper():
    uniform = tq.LSQUniformWeightsTrainableQuantizer(
        weights_config({"range_min": -1.0, "range_max": 0.5}, weights_quantization_method=Method.UNIFORM)
    )
    layer = tq.PytorchTrainableQuantizationWrapper(
        nn.Linear(3, 4), {"weight": uniform, "bias": tq.STESymmetricWeightsTrainableQuantizer(weights_config())}
    )
    x = torch.randn(2, 3)
    expected = layer(x)
    assert torch.equal(tq.convert(layer)(x), expected)


@pytest.mark.parametrize("method", ["power_of_two", "lut_power_of_two"])
def test_a_weight_that_was_given_other_channels_is_refused(method):
    recipe = tq.Recipe({"num_bits": 4, "method": method})
    model = tq.prepare(nn.Sequential(nn.Linear(4, 2)), recipe, verbose=False)
    model[0].layer.weight.data = torch.randn(3, 4)
    model[0].layer.bias = None
    with pytest.raises(tq.QuantizerError, match=r"of 2 channels on axis 0, got \(3, 4\); change the float model"):
        model(torch.randn(5, 4))
