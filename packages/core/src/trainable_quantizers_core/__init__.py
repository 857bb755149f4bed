"""The framework-free core of trainable quantizers: configurations, grids, recipes, calibration and integer programs."""

from mct_quantizers import QuantizationMethod, QuantizationTarget, mark_quantizer

from trainable_quantizers_core._version import __version__
from trainable_quantizers_core.calibration.initial_parameters import (
    Calibrated,
    activation_parameters,
    weights_parameters,
)
from trainable_quantizers_core.calibration.tensor_statistics import TensorStatistics
from trainable_quantizers_core.constants import LUT_VALUES, MIN_THRESHOLD, RANGE_MAX, RANGE_MIN, SIGNED, THRESHOLD
from trainable_quantizers_core.deploy.verification import TensorDifference, Verification
from trainable_quantizers_core.enums import (
    CalibrationMethod,
    Granularity,
    RescaleRule,
    RoundingRule,
    ThresholdDomain,
    TrainingMethod,
    VariableGroup,
)
from trainable_quantizers_core.errors import QuantizerError
from trainable_quantizers_core.graph.bit_widths import Budget
from trainable_quantizers_core.graph.summary import Summary, SummaryRow
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid
from trainable_quantizers_core.quantizer.annealing import BaseLinearAnnealingScheduler
from trainable_quantizers_core.quantizer.base_config import TrainableQuantizerConfig
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.oscillations import Oscillations
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule
from trainable_quantizers_core.quantizer.serialization import register_enum
from trainable_quantizers_core.recipe.plan import Layer, LayerPlan, LayerRule
from trainable_quantizers_core.recipe.recipe import Recipe
from trainable_quantizers_core.recipe.schemes import ActivationsScheme, WeightsScheme

__all__ = [
    "LUT_VALUES",
    "MIN_THRESHOLD",
    "RANGE_MAX",
    "RANGE_MIN",
    "SIGNED",
    "THRESHOLD",
    "AccumulatorGrid",
    "ActivationsScheme",
    "BaseLinearAnnealingScheduler",
    "BaseTrainableQuantizer",
    "Budget",
    "Calibrated",
    "CalibrationMethod",
    "Granularity",
    "Layer",
    "LayerPlan",
    "LayerRule",
    "Oscillations",
    "Program",
    "QuantizationMethod",
    "QuantizationSchedule",
    "QuantizationTarget",
    "QuantizerError",
    "Recipe",
    "RescaleRule",
    "RoundingRule",
    "Summary",
    "SummaryRow",
    "TensorDifference",
    "TensorStatistics",
    "ThresholdDomain",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerCandidateConfig",
    "TrainableQuantizerConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "VariableGroup",
    "Verification",
    "WeightsScheme",
    "__version__",
    "activation_parameters",
    "c_source",
    "get_trainable_quantizer_class",
    "mark_quantizer",
    "register_enum",
    "weights_parameters",
]
