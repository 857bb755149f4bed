"""Trainable quantizers for Keras, with all names of the core that its users need."""

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

from trainable_quantizers_keras._version import __version__
from trainable_quantizers_keras.deploy.convert import convert
from trainable_quantizers_keras.deploy.export import export
from trainable_quantizers_keras.deploy.integer import to_integer
from trainable_quantizers_keras.deploy.lite_file import LiteFile
from trainable_quantizers_keras.deploy.sensitivity import sensitivity
from trainable_quantizers_keras.deploy.verify import verify
from trainable_quantizers_keras.inventory import load_quantizers, save_quantizers
from trainable_quantizers_keras.layers.holder import KerasActivationQuantizationHolder
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput
from trainable_quantizers_keras.layers.wrapper import KerasQuantizationWrapper, KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.learned_bits import fit_budget, learned_recipe
from trainable_quantizers_keras.load_model import keras_load_quantized_model
from trainable_quantizers_keras.prepare import prepare, summary
from trainable_quantizers_keras.quantizer.activation_quantizers import (
    LSQSymmetricActivationTrainableQuantizer,
    LSQTableActivationTrainableQuantizer,
    LSQUniformActivationTrainableQuantizer,
    STESymmetricActivationTrainableQuantizer,
    STEUniformActivationTrainableQuantizer,
)
from trainable_quantizers_keras.quantizer.annealing import KerasLinearAnnealingScheduler
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer
from trainable_quantizers_keras.quantizer.weights_quantizers import (
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
from trainable_quantizers_keras.report import report
from trainable_quantizers_keras.search_bits import search_bits
from trainable_quantizers_keras.training.batch_norm import reestimate_batch_norm
from trainable_quantizers_keras.training.distillation import Distillation
from trainable_quantizers_keras.training.optimizer import exclude_quantizers_from_weight_decay
from trainable_quantizers_keras.training.reconstruct import reconstruct
from trainable_quantizers_keras.training.regularizers import (
    budget_regularizer,
    oscillation_damping,
    rounding_regularizer,
)
from trainable_quantizers_keras.training.schedules import QuantizationScheduleCallback, advance_schedules
from trainable_quantizers_keras.training.telemetry import QuantizationTelemetryCallback, telemetry

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
    "BaseKerasTrainableQuantizer",
    "Budget",
    "CalibrationMethod",
    "DQASymmetricWeightsTrainableQuantizer",
    "DQAUniformWeightsTrainableQuantizer",
    "Distillation",
    "GradientRule",
    "Granularity",
    "KerasActivationQuantizationHolder",
    "KerasLinearAnnealingScheduler",
    "KerasQuantizationWrapper",
    "KerasQuantizedOutput",
    "KerasRangeQuantizer",
    "KerasTrainableQuantizationWrapper",
    "LSQSymmetricActivationTrainableQuantizer",
    "LSQSymmetricWeightsTrainableQuantizer",
    "LSQTableActivationTrainableQuantizer",
    "LSQTableWeightsTrainableQuantizer",
    "LSQUniformActivationTrainableQuantizer",
    "LSQUniformWeightsTrainableQuantizer",
    "LayerRule",
    "LiteFile",
    "Oscillations",
    "Program",
    "QuantizationMethod",
    "QuantizationSchedule",
    "QuantizationScheduleCallback",
    "QuantizationTarget",
    "QuantizationTelemetryCallback",
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
    "exclude_quantizers_from_weight_decay",
    "export",
    "fit_budget",
    "get_trainable_quantizer_class",
    "keras_load_quantized_model",
    "learned_recipe",
    "load_quantizers",
    "mark_quantizer",
    "oscillation_damping",
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
