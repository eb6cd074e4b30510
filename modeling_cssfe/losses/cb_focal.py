# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class-balanced focal loss: focal loss, classes weighted by their effective number of samples."""

from typing import Any

import torch

from ._common import (
    ClassStatisticsLoss,
    check_at_least,
    check_positive,
    effective_number_weight,
)
from .focal import focal_loss


class ClassBalancedFocalLoss(ClassStatisticsLoss):
    r"""Class-balanced focal loss, `w_c` times `focal_loss` with `w_c = (1 - beta) / (1 - beta^n_c)`, class by class.

    The pure function is `focal_loss(..., class_weight=effective_number_weight(class_counts, beta))`.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019. Constants: Wu et al.,
    "Distribution-Balanced Loss", ECCV 2020, code (beta .9, gamma 2, balance 2). Cui et al. scale the weights to mean 1
    and that code does not, so `normalize` is off by default. Weights are each class's own, as in Cui et al.; that code
    can also give all labels of an image the mean weight of its positives.

    With beta .9 the weight stops falling at about 30 images: only tail classes are lifted. Larger beta reaches further.

    Shapes: logits and labels `(batch, classes)`; the loss is a scalar, or `(batch, classes)` with `reduction="none"`.
    When to use: class counts are known and easy negatives dominate.
    Recommended sampler: uniform.

    Args:
        class_counts: Training images of each class; a class without images counts as seen once.
        beta: In `[0, 1)`; 0 gives focal loss.
        gamma: Focusing exponent, >= 0.
        balance: Factor of the whole loss, > 0.
        normalize: Scale the class weights to mean 1.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: An option or a count is out of range.
    """

    class_weight: torch.Tensor

    def __init__(
        self,
        class_counts: Any,
        beta: float = 0.9,
        gamma: float = 2.0,
        balance: float = 2.0,
        normalize: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(class_counts, reduction=reduction)
        self.beta = beta
        self.gamma = check_at_least("gamma", gamma, 0)
        self.balance = check_positive("balance", balance)
        self.normalize = normalize
        self.register_statistics()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return the class weights."""
        weight = effective_number_weight(self.class_counts, self.beta)
        return {"class_weight": weight / weight.mean() if self.normalize else weight}

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return focal_loss(
            logits,
            labels,
            gamma=self.gamma,
            balance=self.balance,
            class_weight=self.class_weight,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = ["ClassBalancedFocalLoss", "effective_number_weight"]
