# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Multi-label soft margin: binary cross-entropy averaged image by image."""

import torch
from torch import nn
from torch.nn import functional as F

from ..loss_cssfe import check_reduction, reduce_loss, split_labels


def multilabel_soft_margin_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Multi-label soft margin loss: the mean over images of each image's mean binary cross-entropy.

    With every label known this is binary cross-entropy. The two part where labels are unknown: here each image weighs
    the same, however few of its labels are known; there each known label does.

    Source: `torch.nn.MultiLabelSoftMarginLoss`, which it equals under `"mean"`. Torch sums per-image means under
    `"sum"`, which is smaller by the number of classes, and gives one value an image under `"none"`: the row means
    here.

    When to use: in comparisons that name it, and for sets whose images differ much in how many labels are known.
    Recommended sampler: uniform.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        reduction: `"mean"` over images with a known label, `"sum"` of the values of `"none"`, or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`, where a value is scaled by classes / known labels of the image.

    Raises:
        ValueError: Shapes differ, or the reduction is unknown.
    """
    scores, targets, known = split_labels(logits, labels)
    values = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    known_labels = known.sum(dim=1, keepdim=True, dtype=values.dtype)
    values = values * (values.shape[1] / known_labels.clamp(min=1))
    if reduction != "mean":
        return reduce_loss(values, known, reduction, sample_weight)
    total = reduce_loss(values, known, "sum", sample_weight)
    return total / ((known_labels > 0).sum() * values.shape[1]).clamp(min=1)


class MultiLabelSoftMarginLoss(nn.Module):
    """`multilabel_soft_margin_loss` as a module; see there for the formula and the arguments."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = check_reduction(reduction)

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        return multilabel_soft_margin_loss(logits, labels, self.reduction, sample_weight)


__all__ = ["MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss"]
