# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Distribution-balanced focal loss: the distribution-balanced loss, focused on labels that are still wrong."""

from typing import Any

from ._common import check_at_least, check_positive
from .db import DistributionBalancedLoss


class DistributionBalancedFocalLoss(DistributionBalancedLoss):
    """Distribution-balanced focal loss (DB focal): `distribution_balanced_loss` with gamma 2 and balance 2.

    The focusing factor multiplies each label's loss. Some ports reduce the re-balanced cross-entropy to a scalar and
    focus that, which is another loss.

    Source: Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020,
    and its released code.

    Shapes: logits and labels `(batch, classes)`; the loss is a scalar, or `(batch, classes)` with `reduction="none"`.
    When to use: the strongest loss with fixed weights on LT-VOC and LT-COCO among those of its time.
    Recommended sampler: class_aware.

    Args:
        class_counts: Training images of each class.
        num_samples: Training images in all.
        gamma: Focusing exponent, >= 0.
        balance: Factor of the whole loss, > 0.
        preset, mu, negative_scale, alpha, beta, kappa, shift_over_scale, reduction: See `DistributionBalancedLoss`.

    Raises:
        ValueError: Unknown preset, or an option or a count is out of range.
    """

    def __init__(
        self,
        class_counts: Any,
        num_samples: float,
        preset: str | None = None,
        mu: float | None = None,
        negative_scale: float | None = None,
        alpha: float = 0.1,
        beta: float = 10.0,
        kappa: float = 0.05,
        shift_over_scale: bool = False,
        gamma: float = 2.0,
        balance: float = 2.0,
        reduction: str = "mean",
    ):
        super().__init__(
            class_counts,
            num_samples,
            preset=preset,
            mu=mu,
            negative_scale=negative_scale,
            alpha=alpha,
            beta=beta,
            kappa=kappa,
            shift_over_scale=shift_over_scale,
            reduction=reduction,
        )
        self.gamma = check_at_least("gamma", gamma, 0)
        self.balance = check_positive("balance", balance)


__all__ = ["DistributionBalancedFocalLoss"]
