# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Focal loss: labels that are already right weigh less."""

import torch
from torch import nn

from ..loss_cssfe import check_reduction, reduce_loss, split_labels
from ._common import check_at_least, check_positive
from ._fused import two_sided_loss


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    gamma: float = 2.0,
    balance: float = 2.0,
    class_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Focal loss, `balance * w_c * (1 - p_t)^gamma * BCE`, where `p_t` is the probability of the right answer.

    The focusing factor is taken label by label. Some ports reduce the cross-entropy to a scalar first and focus that,
    which is another loss; and it carries gradient, as in the paper.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4. The paper's alpha weighs
    positives by alpha and negatives by 1 - alpha; the long-tailed multi-label literature (Wu et al., ECCV 2020, code)
    replaces it by one factor, 2, for both: `balance` here.

    When to use: many easy negatives and no class counts at hand.
    Recommended sampler: uniform.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        gamma: Focusing exponent, >= 0; with 0 this is weighted binary cross-entropy.
        balance: Factor of the whole loss, > 0.
        class_weight: `(classes,)` weights, or none.
        reduction: `"mean"` over known labels, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
    """
    check_at_least("gamma", gamma, 0)
    check_positive("balance", balance)
    scores, targets, known = split_labels(logits, labels)
    weight = balance if class_weight is None else class_weight * balance
    values = two_sided_loss(scores, targets, weight, gamma=gamma)
    return reduce_loss(values, known, reduction, sample_weight)


class FocalLoss(nn.Module):
    """`focal_loss` as a module; see there for the formula and the arguments."""

    def __init__(self, gamma: float = 2.0, balance: float = 2.0, reduction: str = "mean"):
        super().__init__()
        self.gamma = check_at_least("gamma", gamma, 0)
        self.balance = check_positive("balance", balance)
        self.reduction = check_reduction(reduction)

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        return focal_loss(
            logits,
            labels,
            gamma=self.gamma,
            balance=self.balance,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = ["FocalLoss", "focal_loss"]
