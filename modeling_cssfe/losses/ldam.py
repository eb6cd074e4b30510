# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""LDAM: rarer classes must be right by a wider margin; late in training their weight grows as well."""

from collections.abc import Sequence
from typing import Any

import torch

from ..loss_cssfe import reduce_loss, split_labels
from ._common import (
    ClassStatisticsLoss,
    check_at_least,
    check_positive,
    effective_number_weight,
    inverse_count,
)
from ._fused import two_sided_loss


def ldam_margin(class_counts: Sequence[float], max_margin: float = 0.5) -> torch.Tensor:
    """Margins proportional to `n^(-1/4)`, the largest of them `max_margin`; `(classes,)` in fp64.

    A class without images counts as seen once.
    """
    margin = inverse_count(class_counts) ** 0.25
    return margin * (max_margin / margin.max())


def ldam_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    margin: torch.Tensor,
    scale: float = 30.0,
    class_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Label-distribution-aware margin loss for multi-label: binary cross-entropy of `scale * (z - y * margin_c)`.

    The margin is taken off the logits of positives only, so that a rare class must clear a wider gap.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019,
    equations 12 and 13, stated there for softmax; the margin on positives of a sigmoid is its multi-label form.

    The scale 30 belongs to logits that are cosines, in `[-1, 1]`, as the authors' classifier gives. With free logits
    pass `scale=1`, or the loss saturates as soon as a logit passes `1 / scale`.

    When to use: cosine classifiers; with deferred re-weighting also where tail classes are overfitted early.
    Recommended sampler: uniform.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        margin: `(classes,)`, see `ldam_margin`.
        scale: Factor of logits and margins, > 0.
        class_weight: `(classes,)` weights, or none.
        reduction: `"mean"` over known labels, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
    """
    check_positive("scale", scale)
    scores, targets, known = split_labels(logits, labels)
    values = two_sided_loss(
        scores,
        targets,
        1.0 if class_weight is None else class_weight,
        margin=margin,
        positive_scale=scale,
        negative_scale=scale,
    )
    return reduce_loss(values, known, reduction, sample_weight)


class LDAMLoss(ClassStatisticsLoss):
    """`ldam_loss` as a module, with deferred re-weighting (DRW).

    Training starts with equal class weights. From epoch `reweight_epoch` on, classes weigh by their effective number
    of samples, scaled to mean 1 (Cao et al., section 3.3). Tell the module where training is by `set_epoch` at the
    start of every epoch; until then it stands at epoch 0. The paper re-weights from epoch 160 of 200: with
    `reweight_epoch=None` that share, 80 %, of the `num_epochs` given to `set_epoch` is taken, in whole epochs rounded
    down, and without `num_epochs` the weights stay equal.

    Args:
        class_counts: Training images of each class.
        max_margin: Margin of the rarest class, >= 0.
        scale: Factor of logits and margins, > 0; see `ldam_loss` for logits that are not cosines.
        reweight_beta: Beta of the effective number, in `[0, 1)`.
        reweight_epoch: First epoch, counted from 0, with re-weighting; 0 re-weights from the start.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: An option or a count is out of range.
    """

    margin: torch.Tensor
    class_weight: torch.Tensor

    def __init__(
        self,
        class_counts: Any,
        max_margin: float = 0.5,
        scale: float = 30.0,
        reweight_beta: float = 0.9999,
        reweight_epoch: int | None = None,
        reduction: str = "mean",
    ):
        super().__init__(class_counts, reduction=reduction)
        self.max_margin = check_at_least("max_margin", max_margin, 0)
        self.scale = check_positive("scale", scale)
        self.reweight_beta = reweight_beta
        if reweight_epoch is not None:
            check_at_least("reweight_epoch", reweight_epoch, 0)
        self.reweight_epoch = reweight_epoch
        if not 0 <= reweight_beta < 1:  # now, not at epoch 160
            raise ValueError(f"reweight_beta must lie in [0, 1), got {reweight_beta}.")
        self.reweighting = reweight_epoch == 0
        self.register_statistics()

    def set_epoch(self, epoch: int, num_epochs: int | None = None) -> None:
        """Say which epoch begins, so that re-weighting starts when it is due.

        Args:
            epoch: The epoch, counted from 0.
            num_epochs: Epochs in all; places the start where `reweight_epoch` does not.

        Raises:
            ValueError: `epoch` is negative.
        """
        check_at_least("epoch", epoch, 0)
        start = self.reweight_epoch
        if start is None and num_epochs is not None:
            start = 4 * num_epochs // 5
        self.reweighting = start is not None and epoch >= start
        self.reset_buffers()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return margins and the class weights of the present epoch."""
        margin = ldam_margin(self.class_counts, self.max_margin)
        if not self.reweighting:
            return {"margin": margin, "class_weight": torch.ones_like(margin)}
        weight = effective_number_weight(self.class_counts, self.reweight_beta)
        return {"margin": margin, "class_weight": weight / weight.mean()}

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return ldam_loss(
            logits,
            labels,
            self.margin,
            scale=self.scale,
            class_weight=self.class_weight,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = ["LDAMLoss", "ldam_loss", "ldam_margin"]
