# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Logit adjustment for multi-label: the class prior is added in training, so the bare logits are balanced."""

from typing import Any

import torch
from torch.nn import functional as F

from ..loss_cssfe import reduce_loss, split_labels
from ._common import ClassStatisticsLoss, check_at_least, log_odds


def logit_adjusted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    prior_log_odds: torch.Tensor,
    tau: float = 1.0,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Logit-adjusted binary cross-entropy, `BCE(z_c + tau * log(n_c / (N - n_c)), y)`.

    Each label is a two-class problem with priors `n_c / N` and `1 - n_c / N`. Adding tau times the log-priors to both
    logits of its softmax adds tau times their difference, the log-odds, to the sigmoid's logit. What the bare logit
    then learns is the log-odds under balanced classes: it minimises the balanced error of each label, and all classes
    share the threshold 0. Use the bare logits in prediction.

    Source: Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, equation 10, applied to each label.
    The negative-tolerant shift of the distribution-balanced loss is the same term with tau .05 (`kappa` there).

    When to use: balanced decisions at one threshold without re-weighting; ranking within one class is little changed.
    Recommended sampler: uniform; a re-balancing sampler changes the priors that are corrected here.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        prior_log_odds: `(classes,)`, see `log_odds`.
        tau: Strength, >= 0; 1 is the paper's default, 0 gives binary cross-entropy.
        reduction: `"mean"` over known labels, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
    """
    check_at_least("tau", tau, 0)
    scores, targets, known = split_labels(logits, labels)
    scores = scores + prior_log_odds.to(scores.dtype) * tau
    values = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return reduce_loss(values, known, reduction, sample_weight)


class LogitAdjustedLoss(ClassStatisticsLoss):
    """`logit_adjusted_loss` as a module; see there for the formula.

    Args:
        class_counts: Training images of each class; none or all of the images counts as one, or all but one.
        num_samples: Training images in all.
        tau: Strength, >= 0.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: An option or a count is out of range.
    """

    prior_log_odds: torch.Tensor
    num_samples: float

    def __init__(self, class_counts: Any, num_samples: float, tau: float = 1.0, reduction: str = "mean"):
        super().__init__(class_counts, num_samples, reduction)
        self.tau = check_at_least("tau", tau, 0)
        self.register_statistics()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return the log-odds of the classes in training."""
        return {"prior_log_odds": log_odds(self.class_counts, self.num_samples)}

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return logit_adjusted_loss(logits, labels, self.prior_log_odds, self.tau, self.reduction, sample_weight)


__all__ = ["LogitAdjustedLoss", "log_odds", "logit_adjusted_loss"]
