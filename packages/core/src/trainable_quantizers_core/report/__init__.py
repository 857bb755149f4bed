"""Reports: the effect of quantization on each tensor, as one HTML page or a table in the terminal."""

from trainable_quantizers_core.report.data import ModelReport, SkippedLayer, TensorReport
from trainable_quantizers_core.report.measure import measure
from trainable_quantizers_core.report.page import to_html, write_html
from trainable_quantizers_core.report.sensitivity import QuantizerSensitivity, Sensitivity
from trainable_quantizers_core.report.table import print_report, to_table

__all__ = [
    "ModelReport",
    "QuantizerSensitivity",
    "Sensitivity",
    "SkippedLayer",
    "TensorReport",
    "measure",
    "print_report",
    "to_html",
    "to_table",
    "write_html",
]
