"""Evaluation: from a network to its logits, from logits to every metric, from metrics to a page."""

from __future__ import annotations

from .export import export_onnx
from .inference import class_sums, loss_and_accuracy, predict
from .metrics import Averages, Report, fit_temperature, reliability_bins, report, wilson_interval
from .model_report import REPORT_FILES, write_report
from .predictions import Predictions

# fmt: off
__all__ = [
    "REPORT_FILES", "Averages", "Predictions", "Report", "class_sums", "export_onnx", "fit_temperature",
    "loss_and_accuracy", "predict", "reliability_bins", "report", "wilson_interval", "write_report",
]
# fmt: on
