# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Metrics of long-tailed multi-label classification.

`long_tail_map` gives all figures at once; the other functions give one kind each. The folder `long_tail_map` beside
this file holds the same as an `evaluate` module; it is loaded by its path and is no package.
"""

from .accumulate import LongTailMeanAveragePrecision
from .average_precision import average_precision
from .calibration import expected_calibration_error, per_class_calibration_error
from .long_tail import long_tail_map
from .ranking import auroc, coverage_error, ranking_loss
from .threshold_metrics import decide, f1_scores, precision_recall_scores


__all__ = [
    "LongTailMeanAveragePrecision",
    "auroc",
    "average_precision",
    "coverage_error",
    "decide",
    "expected_calibration_error",
    "f1_scores",
    "long_tail_map",
    "per_class_calibration_error",
    "precision_recall_scores",
    "ranking_loss",
]
