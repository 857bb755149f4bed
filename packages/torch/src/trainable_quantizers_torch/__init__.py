"""Trainable quantizers for PyTorch, with all names of the core that its users need."""

import torch  # noqa: F401  before anything that imports TensorFlow
from trainable_quantizers_core import (
    LUT_VALUES,
    MIN_THRESHOLD,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    THRESHOLD,
    AccumulatorGrid,
    ActivationsScheme,
    Budget,
    CalibrationMethod,
    Granularity,
    LayerRule,
    Oscillations,
    Program,
    QuantizationMethod,
    QuantizationSchedule,
    QuantizationTarget,
    QuantizerError,
    Recipe,
    RescaleRule,
    RoundingRule,
    Summary,
    SummaryRow,
    ThresholdDomain,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
    VariableGroup,
    Verification,
    WeightsScheme,
    c_source,
    get_trainable_quantizer_class,
    mark_quantizer,
    register_enum,
)
from trainable_quantizers_core.quantizer.gradient_rule import GradientRule

from trainable_quantizers_torch._version import __version__
from trainable_quantizers_torch.deploy.convert import convert
from trainable_quantizers_torch.deploy.export import export
from trainable_quantizers_torch.deploy.integer import to_integer
from trainable_quantizers_torch.deploy.sensitivity import sensitivity
from trainable_quantizers_torch.deploy.verify import verify
from trainable_quantizers_torch.inventory import load_quantizers, save_quantizers
from trainable_quantizers_torch.layers.holder import PytorchTrainableActivationQuantizationHolder
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.learned_bits import fit_budget, learned_recipe
from trainable_quantizers_torch.prepare import prepare, summary
from trainable_quantizers_torch.quantizer.activation_quantizers import (
    LSQSymmetricActivationTrainableQuantizer,
    LSQTableActivationTrainableQuantizer,
    LSQUniformActivationTrainableQuantizer,
    STESymmetricActivationTrainableQuantizer,
    STEUniformActivationTrainableQuantizer,
)
from trainable_quantizers_torch.quantizer.annealing import PytorchLinearAnnealingScheduler
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.weights_quantizers import (
    AdaRoundSymmetricWeightsTrainableQuantizer,
    AdaRoundUniformWeightsTrainableQuantizer,
    DQASymmetricWeightsTrainableQuantizer,
    DQAUniformWeightsTrainableQuantizer,
    LSQSymmetricWeightsTrainableQuantizer,
    LSQTableWeightsTrainableQuantizer,
    LSQUniformWeightsTrainableQuantizer,
    STESymmetricWeightsTrainableQuantizer,
    STEUniformWeightsTrainableQuantizer,
)
from trainable_quantizers_torch.report import report
from trainable_quantizers_torch.search_bits import search_bits
from trainable_quantizers_torch.training.batch_norm import reestimate_batch_norm
from trainable_quantizers_torch.training.distillation import Distillation
from trainable_quantizers_torch.training.optimizer import parameter_groups
from trainable_quantizers_torch.training.reconstruct import reconstruct
from trainable_quantizers_torch.training.regularizers import (
    budget_regularizer,
    oscillation_damping,
    rounding_regularizer,
)
from trainable_quantizers_torch.training.schedules import advance_schedules, follow_optimizer
from trainable_quantizers_torch.training.telemetry import telemetry

__all__ = [
    "LUT_VALUES",
    "MIN_THRESHOLD",
    "RANGE_MAX",
    "RANGE_MIN",
    "SIGNED",
    "THRESHOLD",
    "AccumulatorGrid",
    "ActivationsScheme",
    "AdaRoundSymmetricWeightsTrainableQuantizer",
    "AdaRoundUniformWeightsTrainableQuantizer",
    "BasePytorchTrainableQuantizer",
    "Budget",
    "CalibrationMethod",
    "DQASymmetricWeightsTrainableQuantizer",
    "DQAUniformWeightsTrainableQuantizer",
    "Distillation",
    "GradientRule",
    "Granularity",
    "LSQSymmetricActivationTrainableQuantizer",
    "LSQSymmetricWeightsTrainableQuantizer",
    "LSQTableActivationTrainableQuantizer",
    "LSQTableWeightsTrainableQuantizer",
    "LSQUniformActivationTrainableQuantizer",
    "LSQUniformWeightsTrainableQuantizer",
    "LayerRule",
    "Oscillations",
    "Program",
    "PytorchLinearAnnealingScheduler",
    "PytorchRangeQuantizer",
    "PytorchTrainableActivationQuantizationHolder",
    "PytorchTrainableQuantizationWrapper",
    "QuantizationMethod",
    "QuantizationSchedule",
    "QuantizationTarget",
    "QuantizerError",
    "Recipe",
    "RescaleRule",
    "RoundingRule",
    "STESymmetricActivationTrainableQuantizer",
    "STESymmetricWeightsTrainableQuantizer",
    "STEUniformActivationTrainableQuantizer",
    "STEUniformWeightsTrainableQuantizer",
    "Summary",
    "SummaryRow",
    "ThresholdDomain",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerCandidateConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "VariableGroup",
    "Verification",
    "WeightsScheme",
    "__version__",
    "advance_schedules",
    "budget_regularizer",
    "c_source",
    "convert",
    "export",
    "fit_budget",
    "follow_optimizer",
    "get_trainable_quantizer_class",
    "learned_recipe",
    "load_quantizers",
    "mark_quantizer",
    "oscillation_damping",
    "parameter_groups",
    "prepare",
    "reconstruct",
    "reestimate_batch_norm",
    "register_enum",
    "report",
    "rounding_regularizer",
    "save_quantizers",
    "search_bits",
    "sensitivity",
    "summary",
    "telemetry",
    "to_integer",
    "verify",
]
