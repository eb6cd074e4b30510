# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The losses of long-tailed multi-label classification, one file each; `build_loss(name, ...)` makes any of them.

All take `(batch, classes)` logits and multi-hot labels, leave unknown labels (`-1` or `NaN`) out, keep every factor
label by label until the reduction, and are stable in half precision.
"""

from ._common import effective_number_weight, inverse_count, log_odds
from .asl import AsymmetricLoss, asymmetric_loss
from .bce import BinaryCrossEntropyLoss, binary_cross_entropy
from .cb_focal import ClassBalancedFocalLoss
from .db import (
    DB_PRESETS,
    DBConstants,
    DistributionBalancedLoss,
    db_constants,
    distribution_balanced_loss,
    rebalancing_weight,
)
from .db_focal import DistributionBalancedFocalLoss
from .focal import FocalLoss, focal_loss
from .ldam import LDAMLoss, ldam_loss, ldam_margin
from .logit_adjustment import LogitAdjustedLoss, logit_adjusted_loss
from .mlsm import MultiLabelSoftMarginLoss, multilabel_soft_margin_loss
from .pg import PG_PRESETS, PGConstants, ProbabilityGuidedLoss, guided_exponents, probability_guided_loss
from .registry import LossEntry, build_loss, get_loss_entry, list_losses
from .rw import ReweightedBCELoss, inverse_sqrt_weight, reweighted_bce_loss
from .two_way import TwoWayLoss, two_way_loss


__all__ = [
    "DB_PRESETS",
    "PG_PRESETS",
    "AsymmetricLoss",
    "BinaryCrossEntropyLoss",
    "ClassBalancedFocalLoss",
    "DBConstants",
    "DistributionBalancedFocalLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "LossEntry",
    "MultiLabelSoftMarginLoss",
    "PGConstants",
    "ProbabilityGuidedLoss",
    "ReweightedBCELoss",
    "TwoWayLoss",
    "asymmetric_loss",
    "binary_cross_entropy",
    "build_loss",
    "db_constants",
    "distribution_balanced_loss",
    "effective_number_weight",
    "focal_loss",
    "get_loss_entry",
    "guided_exponents",
    "inverse_count",
    "inverse_sqrt_weight",
    "ldam_loss",
    "ldam_margin",
    "list_losses",
    "log_odds",
    "logit_adjusted_loss",
    "multilabel_soft_margin_loss",
    "probability_guided_loss",
    "rebalancing_weight",
    "reweighted_bce_loss",
    "two_way_loss",
]
