"""A class written against the documented API works unchanged: created, trained, saved, looked up."""

import copy

import pytest
import torch
from mct_quantizers import mark_quantizer
from torch import nn
from torch_builders import weights_config
from trainable_quantizers_torch import (
    BasePytorchTrainableQuantizer,
    PytorchTrainableQuantizationWrapper,
    QuantizationMethod,
    QuantizationTarget,
    TrainableQuantizerWeightsConfig,
    VariableGroup,
    get_trainable_quantizer_class,
)


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[QuantizationMethod.SYMMETRIC],
    identifier="scaled sign",
)
class ScaledSign(BasePytorchTrainableQuantizer):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, gain: float = 1.0):
        super().__init__(quantization_config)
        self.gain = gain

    def initialize_quantization(self, tensor_shape, name, layer):
        layer.register_parameter(f"{name}_scale", nn.Parameter(torch.ones(1), requires_grad=True))
        self.add_quantizer_variable("scale", layer.get_parameter(f"{name}_scale"), VariableGroup.QPARAMS)
        layer.register_parameter(f"{name}_offset", nn.Parameter(torch.zeros(1), requires_grad=False))
        self.add_quantizer_variable("offset", layer.get_parameter(f"{name}_offset"), VariableGroup.QPARAMS)

    def __call__(self, inputs, training):
        straight_through = inputs + (torch.sign(inputs) - inputs).detach()
        return self.gain * self.get_quantizer_variable("scale") * straight_through

    def convert2inferable(self):
        raise NotImplementedError


def build() -> PytorchTrainableQuantizationWrapper:
    torch.manual_seed(0)
    return PytorchTrainableQuantizationWrapper(nn.Linear(3, 4), {"weight": ScaledSign(weights_config(), gain=0.5)})


def test_trains_and_lists_what_is_trainable():
    layer = build()
    quantizer = layer.weights_quantizers["weight"]
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == [layer.weight_scale]
    layer(torch.ones(2, 3)).sum().backward()
    assert layer.weight_scale.grad is not None


@pytest.mark.parametrize("assign", [False, True])
def test_reloads_copies_and_restores(assign):
    layer, fresh = build(), build()
    with torch.no_grad():
        layer.weight_scale.fill_(3.0)
    fresh.load_state_dict(layer.state_dict(), assign=assign)
    x = torch.randn(2, 3)
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    restored = ScaledSign.from_config(layer.weights_quantizers["weight"].get_config())
    assert restored.gain == 0.5


def test_is_found_by_its_identifier():
    found = get_trainable_quantizer_class(
        QuantizationTarget.Weights, "scaled sign", QuantizationMethod.SYMMETRIC, BasePytorchTrainableQuantizer
    )
    assert found is ScaledSign
