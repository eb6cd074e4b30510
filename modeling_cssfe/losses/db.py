# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Distribution-balanced loss: weights that know of label co-occurrence, and tolerance towards negatives.

Source: Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020, and
its released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..loss_cssfe import reduce_loss, split_labels
from ._common import (
    ClassStatisticsLoss,
    check_at_least,
    check_positive,
    inverse_count,
    log_odds,
)
from ._fused import two_sided_loss


@dataclass(frozen=True)
class DBConstants:
    """The two constants that the authors set for each data set: the weights' centre mu and the negatives' lambda."""

    mu: float
    negative_scale: float


DB_PRESETS = {"voc": DBConstants(mu=0.3, negative_scale=5.0), "coco": DBConstants(mu=0.2, negative_scale=2.0)}


def db_constants(class_counts: Sequence[float], num_samples: float, preset: str | None = None) -> DBConstants:
    """Constants of a named data set, or by rule for any other.

    Rule for mu: `N / sum(n_c)`. Within an image the ratios `r` of its positive labels sum to 1, so where every image
    has a label this is exactly the mean of `r` over positive labels, and mu is the centre of the sigmoid that maps `r`
    to a weight. It gives .49 for LT-VOC and .23 for LT-COCO, where the authors chose .3 and .2. Counts do not tell how
    many images have no label; where many have none, give `mu` as (images with a label) / sum(n_c).
    Rule for lambda: 2, the published value that is nearer to plain cross-entropy and comes from the larger set.

    Args:
        class_counts: Training images of each class.
        num_samples: Training images in all.
        preset: `"voc"` (LT-VOC), `"coco"` (LT-COCO), or none for the rule.

    Returns:
        The constants.

    Raises:
        ValueError: Unknown preset.
    """
    if preset is None:
        return DBConstants(mu=min(1.0, num_samples / max(sum(class_counts), 1.0)), negative_scale=2.0)
    if preset not in list(DB_PRESETS):
        raise ValueError(
            f"unknown preset {preset!r}; choose {' or '.join(map(repr, DB_PRESETS))}, or None for the rule."
        )
    return DB_PRESETS[preset]


@torch.no_grad()
def rebalancing_weight(
    targets: torch.Tensor, inverse_counts: torch.Tensor, mu: float, alpha: float = 0.1, beta: float = 10.0
) -> torch.Tensor:
    r"""Weights of R-BCE, `alpha + sigmoid(beta (r - mu))` with `r_ic = (1/n_c) / sum_j y_ij / n_j`.

    `r` compares how often class-aware sampling means to draw the image for class c with how often it does draw it. An
    image without a positive label is never drawn so, `r` has no value, and all its labels get the weight's limit,
    `alpha + 1`, which is also what the released code computes.

    Args:
        targets: `(batch, classes)` in `[0, 1]`, 0 in place of unknown labels.
        inverse_counts: `(classes,)`, `1 / n_c`.
        mu: Centre of the sigmoid.
        alpha: Least weight.
        beta: Slope of the sigmoid.

    Returns:
        `(batch, classes)`, without gradient.
    """
    inverse_counts = inverse_counts.to(targets.dtype)
    drawn = (targets * inverse_counts).sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny ** 0.5)
    # In place on the fresh quotient: these are the largest temporaries of the loss.
    return ((inverse_counts * beta) / drawn).sub_(beta * mu).sigmoid_().add_(alpha)


def distribution_balanced_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    inverse_counts: torch.Tensor,
    shift: torch.Tensor,
    mu: float,
    negative_scale: float,
    alpha: float = 0.1,
    beta: float = 10.0,
    gamma: float = 0.0,
    balance: float = 1.0,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Distribution-balanced loss (DB): re-balanced weights times negative-tolerant cross-entropy, optionally focused.

    With `x = z - nu`, lambda `negative_scale`, and the weight `w` of `rebalancing_weight`,

    - positive label: `w * log(1 + exp(-x))`
    - negative label: `w * (1 / lambda) log(1 + exp(lambda x))`

    each times `balance * (1 - p_t)^gamma`, `p_t` being `sigmoid(x)` for a positive and `sigmoid(-lambda x)` for a
    negative label: 1 as the defaults stand, and DB focal with gamma 2, balance 2. Every factor is taken label by label.

    Source: Wu et al., ECCV 2020, section 3 and, for the focused form, the released code. That code writes into the
    caller's logits; this one does not.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown, and enters no ratio.
        inverse_counts: `(classes,)`, `1 / n_c`.
        shift: `(classes,)`, nu.
        mu: Centre of the weights.
        negative_scale: Lambda, > 0.
        alpha: Least weight.
        beta: Slope of the weights.
        gamma: Focusing exponent, >= 0.
        balance: Factor of the whole loss, > 0.
        reduction: `"mean"` over known labels, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
    """
    check_positive("negative_scale", negative_scale)
    check_at_least("gamma", gamma, 0)
    check_positive("balance", balance)
    scores, targets, known = split_labels(logits, labels)
    weight = rebalancing_weight(targets, inverse_counts, mu, alpha, beta)
    if balance != 1:
        weight = weight.mul_(balance)
    values = two_sided_loss(
        scores,
        targets,
        weight,
        shift=shift,
        negative_scale=negative_scale,
        negative_divisor=negative_scale,
        gamma=gamma,
    )
    return reduce_loss(values, known, reduction, sample_weight)


class DistributionBalancedLoss(ClassStatisticsLoss):
    """`distribution_balanced_loss` without focus (R-BCE + NTR) as a module; see there for the formula.

    When to use: with class-aware sampling, whose repeated draws through co-occurring labels its weights undo.
    Recommended sampler: class_aware.

    Args:
        class_counts: Training images of each class. None or all of the images counts as one, or all but one.
        num_samples: Training images in all.
        preset: Constants of `"voc"` (mu .3, lambda 5) or `"coco"` (mu .2, lambda 2); none takes the rule of
            `db_constants`.
        mu: Centre of the weights, in place of the preset's.
        negative_scale: Lambda, > 0, in place of the preset's.
        alpha: Least weight, >= 0.
        beta: Slope of the weights, >= 0.
        kappa: Strength of the shift `nu = kappa * log(N / n_c - 1)`, >= 0.
        shift_over_scale: Whether nu is divided by lambda as well. The released code does, the published numbers were
            made with it, and its authors call it a slip, so the default is the paper's formula; it equals a kappa
            that is lambda times smaller.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: Unknown preset, or an option or a count is out of range.
    """

    inverse_counts: torch.Tensor
    shift: torch.Tensor
    num_samples: float
    # No focus here; `DistributionBalancedFocalLoss` makes options of these two.
    gamma: float = 0.0
    balance: float = 1.0

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
        reduction: str = "mean",
    ):
        super().__init__(class_counts, num_samples, reduction)
        constants = db_constants(self.class_counts, num_samples, preset)
        self.mu = check_at_least("mu", constants.mu if mu is None else mu, 0)
        self.negative_scale = check_positive(
            "negative_scale", constants.negative_scale if negative_scale is None else negative_scale
        )
        self.alpha = check_at_least("alpha", alpha, 0)
        self.beta = check_at_least("beta", beta, 0)
        self.kappa = check_at_least("kappa", kappa, 0)
        self.shift_over_scale = shift_over_scale
        self.register_statistics()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return the inverse counts and the shift nu."""
        shift = -self.kappa * log_odds(self.class_counts, self.num_samples)
        if self.shift_over_scale:
            shift = shift / self.negative_scale
        return {"inverse_counts": inverse_count(self.class_counts), "shift": shift}

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return distribution_balanced_loss(
            logits,
            labels,
            self.inverse_counts,
            self.shift,
            mu=self.mu,
            negative_scale=self.negative_scale,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            balance=self.balance,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = [
    "DB_PRESETS",
    "DBConstants",
    "DistributionBalancedLoss",
    "db_constants",
    "distribution_balanced_loss",
    "rebalancing_weight",
]
