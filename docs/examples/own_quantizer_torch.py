"""A quantizer of one's own in PyTorch, and the test that it keeps the contract: pytest runs this file."""

from functools import partial

from trainable_quantizers_core.conformance import expect_range, parametrize_with_checks, register_oracle
from trainable_quantizers_torch import (
    GradientRule,
    PytorchRangeQuantizer,
    QuantizationMethod,
    QuantizationTarget,
    TrainableQuantizerActivationConfig,
    mark_quantizer,
)


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC],
    identifier="unscaled LSQ",
)
class UnscaledLSQActivation(PytorchRangeQuantizer):
    """Learned step size without the factor r."""

    gradient = GradientRule(from_rounding=True, scaled=False)

    def __init__(self, quantization_config: TrainableQuantizerActivationConfig, freeze_quant_params: bool = False):
        super().__init__(quantization_config, freeze_quant_params)


register_oracle("unscaled LSQ", partial(expect_range, from_rounding=True, scaled=False))


@parametrize_with_checks("trainable_quantizers_torch", [UnscaledLSQActivation])
def test_contract(trial):
    """Every promise, for every width and sign, eager and compiled."""
    trial.run()
