# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Re-weighted binary cross-entropy: classes weigh by the inverse square root of their frequency."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ..loss_cssfe import reduce_loss, split_labels
from ._common import ClassStatisticsLoss, inverse_count


def inverse_sqrt_weight(class_counts: Sequence[float]) -> torch.Tensor:
    """Class weights `sqrt(N / n)`, scaled to mean 1, in which the number of images `N` cancels.

    Args:
        class_counts: Training images of each class; a class without images counts as seen once.

    Returns:
        `(classes,)` weights in fp64.
    """
    weight = inverse_count(class_counts).sqrt()
    return weight / weight.mean()


def reweighted_bce_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weight: torch.Tensor,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Re-weighted binary cross-entropy (RW): `w_c * BCE`, `w_c` proportional to `sqrt(N / n_c)`, mean 1 over classes.

    Positives and negatives of a class weigh the same, so the balance between them is that of plain cross-entropy.

    Source: the RW baseline of Wu et al., "Distribution-Balanced Loss", ECCV 2020, section 4. Its code does not scale
    the weights to mean 1; that is done here so that the learning rate means the same as for plain cross-entropy (on
    LT-VOC the loss would be 7 times as large without).

    When to use: as the simplest remedy, where a loss without further settings is wanted.
    Recommended sampler: uniform (with a re-balancing sampler rare classes are favoured twice).

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        class_weight: `(classes,)`, see `inverse_sqrt_weight`.
        reduction: `"mean"` over known labels, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, or the reduction is unknown.
    """
    scores, targets, known = split_labels(logits, labels)
    values = F.binary_cross_entropy_with_logits(scores, targets, weight=class_weight.to(scores.dtype), reduction="none")
    return reduce_loss(values, known, reduction, sample_weight)


class ReweightedBCELoss(ClassStatisticsLoss):
    """`reweighted_bce_loss` as a module; see there for the formula.

    Args:
        class_counts: Training images of each class.
        reduction: `"mean"`, `"sum"` or `"none"`.
    """

    class_weight: torch.Tensor

    def __init__(self, class_counts: Any, reduction: str = "mean"):
        super().__init__(class_counts, reduction=reduction)
        self.register_statistics()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return the class weights."""
        return {"class_weight": inverse_sqrt_weight(self.class_counts)}

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return reweighted_bce_loss(logits, labels, self.class_weight, self.reduction, sample_weight)


__all__ = ["ReweightedBCELoss", "inverse_sqrt_weight", "reweighted_bce_loss"]
