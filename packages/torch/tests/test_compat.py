"""What was written for the Model Compression Toolkit works here once its imports are changed, and nothing else."""

import copy
import pickle
import re

import mct_quantizers
import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_builders import Method, activation_config, weights_config
from trainable_quantizers_torch import compat

WRITTEN_FOR_THE_TOOLKIT = """
import numpy as np
import torch
from mct_quantizers import QuantizationMethod, QuantizationTarget, mark_quantizer
from mct_quantizers.pytorch.quantizers import WeightsSymmetricInferableQuantizer

from model_compression_toolkit.trainable_infrastructure import (
    BasePytorchTrainableQuantizer, TrainableQuantizerWeightsConfig, TrainingMethod)
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import VariableGroup
from model_compression_toolkit.trainable_infrastructure.common.constants import THRESHOLD_TENSOR
from model_compression_toolkit.trainable_infrastructure.common.quant_utils import \\
    get_threshold_reshape_shape
from model_compression_toolkit.trainable_infrastructure.pytorch.quantizer_utils import symmetric_lsq_quantizer


class BaseOfMine(BasePytorchTrainableQuantizer):
    pass


@mark_quantizer(quantization_target=QuantizationTarget.Weights,
                quantization_method=[QuantizationMethod.SYMMETRIC], identifier="halved")
class HalvedThreshold(BaseOfMine):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)
        self.bits = quantization_config.weights_n_bits
        self.axis = quantization_config.weights_channels_axis
        self.start = np.asarray(quantization_config.weights_quantization_params["threshold"]) / 2

    def initialize_quantization(self, tensor_shape, name, layer):
        channels = tensor_shape[self.axis]
        self.shape = get_threshold_reshape_shape(tensor_shape, self.axis, channels)
        start = torch.full((channels,), float(self.start))
        layer.register_parameter(name + "_threshold", torch.nn.Parameter(start, requires_grad=True))
        self.add_quantizer_variable(THRESHOLD_TENSOR, layer.get_parameter(name + "_threshold"), VariableGroup.QPARAMS)

    def __call__(self, inputs, training):
        threshold = self.get_quantizer_variable(THRESHOLD_TENSOR).reshape(self.shape)
        highest = 2 ** (self.bits - 1) - 1
        return symmetric_lsq_quantizer(inputs, threshold, self.bits, True, -highest - 1, highest, 0.01)

    def convert2inferable(self):
        threshold = self.get_quantizer_variable(THRESHOLD_TENSOR).detach().numpy().tolist()
        return WeightsSymmetricInferableQuantizer(self.bits, threshold, True, self.axis)
"""


def with_changed_imports() -> dict:
    names: dict = {}
    exec(
        re.sub(r"model_compression_toolkit\.trainable_infrastructure[.\w]*", compat.__name__, WRITTEN_FOR_THE_TOOLKIT),
        names,
    )
    return names


@pytest.mark.parametrize("wrapper", [mct_quantizers.PytorchQuantizationWrapper, tq.PytorchTrainableQuantizationWrapper])
def test_a_class_written_for_the_toolkit_works_with_changed_imports(wrapper):
    names = with_changed_imports()
    found = compat.get_trainable_quantizer_class(
        tq.QuantizationTarget.Weights, "halved", Method.SYMMETRIC, names["BaseOfMine"]
    )
    assert found is names["HalvedThreshold"]
    torch.manual_seed(0)
    config = weights_config({"threshold": 2.0})
    layer = wrapper(nn.Linear(3, 4), {"weight": found(config)})
    (threshold,) = layer.weights_quantizers["weight"].get_trainable_variables(compat.VariableGroup.QPARAMS)
    assert threshold.tolist() == [1.0] * 4
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    x = torch.randn(8, 3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(loss := layer(x).square().mean())
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] and threshold.tolist() != [1.0] * 4
    trained = layer.eval()(x)
    layer.convert_to_inferable_quantizers()
    torch.testing.assert_close(layer(x), trained, rtol=1e-6, atol=1e-6)  # its own conversion is an ulp off the step


FULL = {2: (-2, 1, 3), 4: (-8, 7, 15), 8: (-128, 127, 255)}
"""Lowest and highest level of signed bits, and highest of unsigned ones."""


def of_function(bits, method, lsq, axis, x, values):
    """(output, leaves) of a function of the toolkit with the values of a quantizer."""
    shape = [-1 if i == axis else 1 for i in range(x.ndim)] if axis is not None else [1]
    leaves = [torch.tensor(value, requires_grad=True) for value in values]
    shaped = [leaf.reshape(shape) for leaf in leaves]
    lowest, highest, steps = FULL[bits]
    if method is Method.UNIFORM:
        how = (bits, 0, steps, lsq) if lsq else (bits,)
        return (compat.uniform_lsq_quantizer if lsq else compat.uniform_quantizer)(x, *shaped, *how), leaves
    how = (bits, True, lowest, highest, lsq) if lsq else (bits, True)
    return (compat.symmetric_lsq_quantizer if lsq else compat.symmetric_quantizer)(x, *shaped, *how), leaves


@pytest.mark.parametrize("bits", FULL)
@pytest.mark.parametrize("method", [Method.SYMMETRIC, Method.UNIFORM])
@pytest.mark.parametrize("training", ["STE", "LSQ"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_functions_have_the_outputs_and_gradients_of_the_quantizers(bits, method, training, axis):
    torch.manual_seed(bits)
    channels = 1 if axis is None else (4, 3)[axis]
    threshold = (torch.rand(channels) + 0.3).numpy()
    params = (
        {"threshold": threshold}
        if method is Method.SYMMETRIC
        else {"range_min": -threshold / 2, "range_max": threshold}
    )
    config = weights_config(
        params, weights_n_bits=bits, weights_quantization_method=method,
        weights_per_channel_threshold=axis is not None, weights_channels_axis=axis or 0,
    )  # fmt: skip
    kind = "Symmetric" if method is Method.SYMMETRIC else "Uniform"
    quantizer = getattr(tq, f"{training}{kind}WeightsTrainableQuantizer")(config)
    layer = tq.PytorchTrainableQuantizationWrapper(nn.Linear(3, 4, bias=False), {"weight": quantizer})
    factor = quantizer.specification.lsq_factor(12 // channels) if training == "LSQ" else 0.0
    x = layer.layer.weight
    results = []
    for output, parameters in (
        (quantizer(x, True), quantizer.get_trainable_variables(tq.VariableGroup.QPARAMS)),
        of_function(bits, method, factor, axis, x, params.values()),
    ):
        loss = (output * torch.arange(12.0).reshape(4, 3)).sum()
        results.append((output, *torch.autograd.grad(loss, [x, *parameters])))
    for quantizers, functions in zip(*results, strict=True):
        assert torch.equal(quantizers.flatten(), functions.flatten())


def test_rounding_and_scaling_change_gradients_alone():
    x = torch.tensor([1e9, 0.1, -2.5], requires_grad=True)
    for function, output, gradient in (
        (compat.ste_round, [1e9, 0.0, -2.0], [1.0, 1.0, 1.0]),
        (lambda x: compat.ste_clip(x, -2.5, 0.1), [0.1, 0.1, -2.5], [0.0, 1.0, 1.0]),
        (lambda x: compat.grad_scale(x, 0.3), x.tolist(), [0.3, 0.3, 0.3]),
    ):
        assert torch.equal(function(x), torch.tensor(output))
        assert torch.equal(torch.autograd.grad(function(x).sum(), x)[0], torch.tensor(gradient))


def test_both_ends_of_a_range_learn_by_themselves():
    ends = torch.tensor([0.5, -2.0], requires_grad=True), torch.tensor([2.0, 1.0], requires_grad=True)
    low, high = compat.adjust_range_to_include_zero(*ends, 4)
    assert low[0] == 0 and low[1] == -2
    gradients = torch.autograd.grad((low * torch.tensor([1.0, 2.0])).sum() + high.sum() * 3, ends)
    assert [gradient.tolist() for gradient in gradients] == [[1.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize("training", [compat.TrainingMethod.STE, compat.TrainingMethod.LSQ])
@pytest.mark.parametrize("method", Method.__members__)
def test_activation_quantizers_are_found_below_their_base(training, method):
    def find():
        return compat.get_trainable_quantizer_class(
            tq.QuantizationTarget.Activation, training, Method[method], compat.BasePytorchActivationTrainableQuantizer
        )

    if method == "LUT_SYM_QUANTIZER" or (method == "LUT_POT_QUANTIZER" and training == "STE"):
        with pytest.raises(tq.QuantizerError, match="0 classes match"):
            find()
        return
    kind = {"UNIFORM": "Uniform", "LUT_POT_QUANTIZER": "Table"}.get(method, "Symmetric")
    assert find() is getattr(tq, f"{training.value}{kind}ActivationTrainableQuantizer")


class Bound(with_changed_imports()["HalvedThreshold"]):
    """One that tells the wrapper that it has variables there."""

    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.bind(layer)


def plain_modules():
    weights = tq.LSQSymmetricWeightsTrainableQuantizer(weights_config())
    constant = tq.STESymmetricWeightsTrainableQuantizer(weights_config(weights_per_channel_threshold=False))
    activation = [tq.LSQSymmetricActivationTrainableQuantizer(activation_config()) for _ in range(2)]
    return {
        "layer": mct_quantizers.PytorchQuantizationWrapper(nn.Linear(3, 4), {"weight": weights}),
        "function": mct_quantizers.PytorchQuantizationWrapper(torch.mul, {1: constant}, {1: torch.rand(3)}),
        "own class": mct_quantizers.PytorchQuantizationWrapper(nn.Linear(3, 4), {"weight": Bound(weights_config())}),
        "holder": mct_quantizers.PytorchActivationQuantizationHolder(activation[0]),
        "preserving holder": mct_quantizers.PytorchPreservingActivationQuantizationHolder(activation[1]),
    }


@pytest.mark.parametrize("kind", plain_modules())
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_modules_of_mct_quantizers_are_copied_after_a_forward_and_keep_nothing_of_what_trained(kind, duplicate):
    torch.manual_seed(0)
    module = plain_modules()[kind]
    plain = type(plain_modules()[kind]).__mro__
    x = torch.rand(2, 3, requires_grad=True)
    module(x).sum().backward()
    assert any("threshold" in name and each.grad is not None for name, each in module.named_parameters())
    copied = duplicate(module)
    expected = module.eval()(x)
    assert torch.equal(copied.eval()(x), expected)
    copied.convert_to_inferable_quantizers()
    assert torch.equal(copied(x), expected)
    assert not [name for name in (*copied.state_dict(), *vars(copied)) if "threshold" in name]
    assert type(copied) in plain and type(copied) in vars(mct_quantizers).values()
    assert torch.equal(module(x), expected)


def test_a_module_that_holds_none_of_our_quantizers_is_left_alone():
    inferable = mct_quantizers.pytorch_quantizers.ActivationPOTInferableQuantizer(4, [1.0], True)
    holder = mct_quantizers.PytorchActivationQuantizationHolder(inferable)
    assert type(holder) is mct_quantizers.PytorchActivationQuantizationHolder
