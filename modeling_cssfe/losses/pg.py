# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Probability-guided loss: keeps the probabilities of positive and negative labels at one pace during training.

Source: Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification", AAAI 2023. The paper prints
no values of its scales (its figures use 2 and 5) and has sign slips in equations 9 and 10. The reading built here:
both sides of PR are positive log(1 + exp(...)) terms, and a label's probability, in the focus as in the batch means,
is the probability that PR gives to its right answer.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..loss_cssfe import reduce_loss, split_labels
from ._common import (
    ClassStatisticsLoss,
    check_at_least,
    check_positive,
    log_odds,
)
from ._fused import two_sided_loss


# A mean probability below this counts as this; it only keeps the ratio of two means finite.
_LEAST_MEAN = 1e-6


@dataclass(frozen=True)
class PGConstants:
    """Raised scales of one data set, and whether they are raised for the tail only (`apr`)."""

    positive_scale: float
    positive_divisor: float
    negative_scale: float
    negative_divisor: float
    apr: bool


# LT-VOC raises l1- and l2+, for the tail; LT-COCO raises l1- and l1+, for all classes. 2 is the milder of the two
# values in the paper's figures, which prints none as its choice.
PG_PRESETS = {
    "voc": PGConstants(1.0, 2.0, 2.0, 1.0, apr=True),
    "coco": PGConstants(2.0, 1.0, 2.0, 1.0, apr=False),
}
# Any other data set: LT-COCO's scales, which sharpen both sides alike and so favour neither, on the tail, where the
# two probabilities part.
_RULE = PGConstants(2.0, 1.0, 2.0, 1.0, apr=True)


def guided_exponents(
    positive_error: torch.Tensor,
    negative_error: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    groups: torch.Tensor,
    group_mask: torch.Tensor,
    gamma: float,
) -> tuple[torch.Tensor, ...]:
    """Focusing exponents of adaptive probability-aware focal (APAF), from the means of one batch.

    `gamma * pbar+ / pbar-` for positives and `gamma * pbar- / pbar+` for negatives of each class, `pbar+` and `pbar-`
    being the mean probability of the right answer over the class's positive and negative labels in the batch: the
    side that lags is focused less, so its easy labels keep teaching. A class without positives (or negatives) in the
    batch takes the mean over the classes of its group that have some; where the whole group has none, the two means
    are equal and the exponent is gamma.

    Args:
        positive_error: `(batch, classes)`, probability of the wrong answer if the label is positive.
        negative_error: `(batch, classes)`, the same if it is negative.
        targets: `(batch, classes)` in `[0, 1]`, 0 in place of unknown labels.
        known: `(batch, classes)`, False for unknown labels.
        groups: `(classes,)`, each class's group: 0 head, 1 medium, 2 tail.
        group_mask: `(3, classes)`, the same as 0 where the class belongs to the group and `NaN` elsewhere.
        gamma: Exponent where both means are equal.

    Returns:
        Exponents of positives and of negatives, `(classes,)` each; the loss takes them as constants.
    """
    negatives = known.to(targets.dtype).sub_(targets)
    counts = torch.stack((targets.sum(dim=0), negatives.sum(dim=0)))
    errors = torch.stack(((targets * positive_error).sum(dim=0), negatives.mul_(negative_error).sum(dim=0)))
    # NaN stands for "none in the batch": 0 / 0 makes it, the means over groups skip it, and loans replace it.
    means = 1 - errors / counts
    loans = (means[:, None] + group_mask).nanmean(dim=2).index_select(1, groups)
    means = torch.where(means.isnan(), loans, means).clamp_(min=_LEAST_MEAN)
    return (means / means.flip(0)).nan_to_num_(nan=1.0).mul_(gamma).unbind()


def probability_guided_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    shift: torch.Tensor | float = 0.0,
    positive_scale: torch.Tensor | float = 1.0,
    positive_divisor: torch.Tensor | float = 1.0,
    negative_scale: torch.Tensor | float = 1.0,
    negative_divisor: torch.Tensor | float = 1.0,
    gamma: float = 2.0,
    groups: torch.Tensor | None = None,
    group_mask: torch.Tensor | None = None,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Probability-guided loss (PG): probability re-balancing (PR) times a focus on what is still wrong.

    With `x = z - nu`,

    - positive label: `(1 / l2+) log(1 + exp(-l1+ x)) * (1 - p_t)^lambda+`, `p_t = sigmoid(l1+ x)`
    - negative label: `(1 / l2-) log(1 + exp(l1- x)) * (1 - p_t)^lambda-`, `p_t = sigmoid(-l1- x)`

    `lambda+ = lambda- = gamma`, unless `groups` are given: then both come from the batch (APAF, see
    `guided_exponents`). PR alone is `gamma=0`, and the negative-tolerant regularisation of the distribution-balanced
    loss is PR with `l1- = l2-` and `l1+ = l2+ = 1`.

    Source: Lin, AAAI 2023, in the reading stated at the top of this file.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        shift: Nu, a number or `(classes,)`.
        positive_scale: `l1+`, > 0, a number or `(classes,)`.
        positive_divisor: `l2+`, likewise.
        negative_scale: `l1-`, likewise.
        negative_divisor: `l2-`, likewise.
        gamma: Focusing exponent (`l0`), >= 0.
        groups: `(classes,)`, group of each class as `guided_exponents` takes it, which turns APAF on; or none.
        group_mask: `(3, classes)`, as `guided_exponents` takes it; goes with `groups`.
        reduction: `"mean"` over known labels, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images; they do not enter the batch means.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
    """
    check_at_least("gamma", gamma, 0)
    scores, targets, known = split_labels(logits, labels)
    guide = None
    if groups is not None and group_mask is not None and gamma > 0:
        guide = partial(
            guided_exponents, targets=targets, known=known, groups=groups, group_mask=group_mask, gamma=gamma
        )
    values = two_sided_loss(
        scores,
        targets,
        shift=shift,
        positive_scale=positive_scale,
        negative_scale=negative_scale,
        positive_divisor=positive_divisor,
        negative_divisor=negative_divisor,
        gamma=gamma,
        guide=guide,
    )
    return reduce_loss(values, known, reduction, sample_weight)


class ProbabilityGuidedLoss(ClassStatisticsLoss):
    """`probability_guided_loss` as a module; see there for the formula.

    When to use: tail classes whose positives are learned by heart while their negatives lag, or the reverse.
    Recommended sampler: class_aware. APAF needs batches in which classes occur, so very small batches blunt it; its
    means are those of the logits that one call is given, each process's own where several train. An exponent has no
    upper bound: where a class's positives are all lost it lets that class's negatives go.

    Args:
        class_counts: Training images of each class. None or all of the images counts as one, or all but one.
        num_samples: Training images in all.
        preset: Scales of `"voc"` (`l1-` and `l2+` are 2 for the tail) or `"coco"` (`l1-` and `l1+` are 2 for all
            classes). None, for any other set: `l1-` and `l1+` are 2 for the tail; sharpening both sides alike favours
            neither, and the tail is where the two probabilities part.
        pr: Probability re-balancing: the shift and the scales. Off, the loss is the focal factor times
            binary cross-entropy.
        apr: Adaptive PR: raised scales hold for tail classes only, and 1 for the others. Off, they hold for all.
            None takes the preset's.
        apaf: Exponents from the batch. Off, both are `gamma`.
        positive_scale: `l1+`, > 0, in place of the preset's.
        positive_divisor: `l2+`, likewise.
        negative_scale: `l1-`, likewise.
        negative_divisor: `l2-`, likewise.
        kappa: Strength of the shift `nu = kappa * log(N / n_c - 1)`, >= 0.
        gamma: Focusing exponent (`l0`), >= 0; 0 turns the focus off.
        head_min: A class with at least so many images is head.
        tail_max: A class with fewer images is tail.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: Unknown preset, or an option or a count is out of range.
    """

    shift: torch.Tensor
    positive_scales: torch.Tensor
    positive_divisors: torch.Tensor
    negative_scales: torch.Tensor
    negative_divisors: torch.Tensor
    groups: torch.Tensor
    group_mask: torch.Tensor
    num_samples: float

    def __init__(
        self,
        class_counts: Any,
        num_samples: float,
        preset: str | None = None,
        pr: bool = True,
        apr: bool | None = None,
        apaf: bool = True,
        positive_scale: float | None = None,
        positive_divisor: float | None = None,
        negative_scale: float | None = None,
        negative_divisor: float | None = None,
        kappa: float = 0.05,
        gamma: float = 2.0,
        head_min: int = 100,
        tail_max: int = 20,
        reduction: str = "mean",
    ):
        super().__init__(class_counts, num_samples, reduction)
        if preset is not None and preset not in list(PG_PRESETS):
            raise ValueError(
                f"unknown preset {preset!r}; choose {' or '.join(map(repr, PG_PRESETS))}, or None for the rule."
            )
        if not 0 <= tail_max <= head_min:
            raise ValueError(f"expected 0 <= tail_max <= head_min, got tail_max {tail_max}, head_min {head_min}.")
        constants = _RULE if preset is None else PG_PRESETS[preset]
        given = {
            "positive_scale": positive_scale,
            "positive_divisor": positive_divisor,
            "negative_scale": negative_scale,
            "negative_divisor": negative_divisor,
        }
        self.scales = {
            name: check_positive(name, getattr(constants, name) if value is None else value)
            for name, value in given.items()
        }
        self.pr = pr
        self.apr = constants.apr if apr is None else apr
        self.apaf = apaf
        self.kappa = check_at_least("kappa", kappa, 0)
        self.gamma = check_at_least("gamma", gamma, 0)
        self.head_min = head_min
        self.tail_max = tail_max
        self.register_statistics()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return the shift, the four scales of each class, and which group each class belongs to."""
        counts = torch.tensor(self.class_counts, dtype=torch.float64, device="cpu")
        head, tail = counts >= self.head_min, counts < self.tail_max
        raised = (tail if self.apr else torch.ones_like(tail)) & self.pr
        one = torch.ones_like(counts)
        statistics = {f"{name}s": torch.where(raised, one * value, one) for name, value in self.scales.items()}
        shift = -self.kappa * log_odds(self.class_counts, self.num_samples)
        statistics["shift"] = shift if self.pr else torch.zeros_like(shift)
        membership = torch.stack((head, ~(head | tail), tail))
        statistics["groups"] = membership.to(torch.int64).argmax(dim=0)
        statistics["group_mask"] = torch.where(membership, 0 * one, math.nan * one)
        return statistics

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return probability_guided_loss(
            logits,
            labels,
            shift=self.shift,
            positive_scale=self.positive_scales,
            positive_divisor=self.positive_divisors,
            negative_scale=self.negative_scales,
            negative_divisor=self.negative_divisors,
            gamma=self.gamma,
            groups=self.groups if self.apaf else None,
            group_mask=self.group_mask,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = [
    "PG_PRESETS",
    "PGConstants",
    "ProbabilityGuidedLoss",
    "guided_exponents",
    "probability_guided_loss",
]
