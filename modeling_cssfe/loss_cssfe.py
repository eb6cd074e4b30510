# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The two losses that a saved CSSFE model carries with it: ASL and binary cross-entropy.

This file is copied next to the weights by `save_pretrained`, so it imports nothing but torch. Every other loss of the
field lives in `modeling_cssfe.losses`, which also lists these two.

Shapes: `logits` and `labels` are `(batch, classes)`. A label of `-1` or `NaN` (or any negative number) is unknown and
takes no part in a loss.
"""

import torch
from torch import nn
from torch.nn import functional as F


REDUCTIONS = ("mean", "sum", "none")


def check_reduction(reduction: str) -> str:
    """Return a known reduction, or raise `ValueError`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}.")
    return reduction


def split_labels(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Separate what is known from what is not, in the precision in which a loss is computed.

    Args:
        logits: `(batch, classes)`, any floating dtype.
        labels: `(batch, classes)`, any integer, bool or float dtype; `-1` (any negative number) or `NaN` is unknown.

    Returns:
        The logits in at least fp32 and the targets in the same dtype, both with 0 in place of unknown labels, and the
        boolean mask of known labels. The inputs are never changed.

    Raises:
        ValueError: The two shapes differ or are not two-dimensional.
    """
    if logits.ndim != 2 or logits.shape != labels.shape:
        raise ValueError(
            f"logits and labels must both be (batch, classes), got {tuple(logits.shape)} and {tuple(labels.shape)}; "
            "pass labels as a multi-hot matrix with one column a class."
        )
    # Half precision overflows in exp() at logits of 12 (fp16) and keeps 3 digits (bf16): losses are fp32 at least.
    scores = logits if logits.dtype == torch.float64 else logits.float()
    targets = labels.to(scores.dtype)
    known = targets >= 0  # False for NaN as well
    # The logits too: a NaN or an infinity there would go through the gradient's product with 0.
    return torch.where(known, scores, 0.0), torch.where(known, targets, 0.0), known


def reduce_loss(
    values: torch.Tensor,
    known: torch.Tensor,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Reduce `(batch, classes)` loss values, leaving unknown labels out.

    Args:
        values: Loss of each image and class, `(batch, classes)`.
        known: Boolean mask of the same shape.
        reduction: `"mean"` divides the sum by the number of known labels, `"sum"` does not, and `"none"` returns
            `(batch, classes)` with exact zeros where the label is unknown.
        sample_weight: `(batch,)`, multiplies each image's row. As in torch, it does not enter the mean's denominator.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`. A batch without any known label gives 0.

    Raises:
        ValueError: Unknown reduction, or `sample_weight` of the wrong shape.
    """
    check_reduction(reduction)
    if sample_weight is not None:
        if sample_weight.shape != values.shape[:1]:
            raise ValueError(
                f"sample_weight must have one weight an image, shape ({values.shape[0]},), "
                f"got {tuple(sample_weight.shape)}."
            )
        values = values * sample_weight.to(values.dtype)[:, None]
    # `where`, not a product: 0 * inf would be NaN.
    values = torch.where(known, values, torch.zeros_like(values))
    if reduction == "none":
        return values
    total = values.sum()
    return total if reduction == "sum" else total / known.sum().clamp(min=1)


def binary_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Binary cross-entropy of every class, `-y log(p) - (1 - y) log(1 - p)` with `p = sigmoid(z)`.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        reduction: `"mean"`, `"sum"` or `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, or the reduction is unknown.
    """
    scores, targets, known = split_labels(logits, labels)
    values = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return reduce_loss(values, known, reduction, sample_weight)


def asymmetric_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    margin: float = 0.05,
    focusing_gradient: bool = False,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Asymmetric loss (ASL).

    `-y (1 - p)^gamma_pos log(p) - (1 - y) p_m^gamma_neg log(1 - p_m)` with `p = sigmoid(z)` and the shifted
    probability `p_m = max(p - margin, 0)`: easy negatives fade, and those below the margin vanish.

    Source: Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, equations 4 to 7.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        gamma_pos: Focusing exponent of positives, >= 0.
        gamma_neg: Focusing exponent of negatives, >= 0.
        margin: Probability margin in `[0, 1)` taken off negatives. .05 in the authors' code, none in the CSSFE paper.
        focusing_gradient: Whether the focusing weight carries gradient. The authors' code turns that off, which is
            the default here; the formula read literally has it on.
        reduction: `"mean"` over known labels, `"sum"` (the authors' choice: a factor `batch * classes` larger) or
            `"none"`.
        sample_weight: `(batch,)` weights of the images.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
        TypeError: An option is no number.
    """
    _check_asymmetric_options(gamma_pos, gamma_neg, margin)
    scores, targets, known = split_labels(logits, labels)
    if not focusing_gradient and not targets.requires_grad:
        values = _FixedFocusASL.apply(scores, targets, gamma_pos, gamma_neg, margin)
        return reduce_loss(values, known, reduction, sample_weight)
    # logsigmoid keeps every digit at |z| = 100, where log(sigmoid(z)) is -inf.
    positive = F.logsigmoid(scores)
    shifted = scores.sigmoid()
    if margin > 0:
        shifted = F.relu(shifted - margin)
        negative = _remainder(shifted, margin).log()
    else:
        negative = F.logsigmoid(-scores)
    if gamma_pos > 0:
        absence = (-scores).sigmoid()  # 1 - p, with all its digits
        positive = positive * _power(absence if focusing_gradient else absence.detach(), gamma_pos)
    if gamma_neg > 0:
        negative = negative * _power(shifted if focusing_gradient else shifted.detach(), gamma_neg)
    # lerp is y * positive + (1 - y) * negative in one pass.
    return reduce_loss(-torch.lerp(negative, positive, targets), known, reduction, sample_weight)


def _check_asymmetric_options(gamma_pos: float, gamma_neg: float, margin: float) -> None:
    for name, value in (("gamma_pos", gamma_pos), ("gamma_neg", gamma_neg), ("margin", margin)):
        if not hasattr(value, "__float__"):
            raise TypeError(f"{name} must be a number, got {value!r}.")
    if not (gamma_pos >= 0 and gamma_neg >= 0):
        raise ValueError(f"gamma_pos and gamma_neg must be >= 0, got {gamma_pos} and {gamma_neg}.")
    if not 0 <= margin < 1:
        raise ValueError(f"margin must lie in [0, 1), got {margin}.")


class _FixedFocusASL(torch.autograd.Function):
    """ASL of each label with focusing weights that carry no gradient, `(batch, classes)`, differentiable once.

    The gradient in closed form shares nearly all of its terms with the value. Left to autograd, the loss keeps a dozen
    matrices and costs more than three times binary cross-entropy; here it keeps one.
    """

    @staticmethod
    def forward(ctx, scores, targets, gamma_pos, gamma_neg, margin):
        shifted = scores.sigmoid()
        absence = (-scores).sigmoid_()  # 1 - p, with all its digits
        if margin > 0:
            slope = shifted * absence
            shifted = shifted.sub_(margin).clamp_(min=0)
            remainder = _remainder(shifted, margin)
            slope.div_(remainder)
            if gamma_neg == 0:  # otherwise the weight is 0 below the margin
                slope.masked_fill_(shifted == 0, 0)
            negative = remainder.log_().neg_()
        else:
            # logsigmoid keeps every digit at |z| = 100, where log(sigmoid(z)) is -inf.
            slope, negative = shifted.clone(), F.logsigmoid(-scores).neg_()
        if gamma_neg > 0:
            weight = _power(shifted, gamma_neg)
            slope.mul_(weight)
            negative.mul_(weight)
        positive, positive_slope = F.logsigmoid(scores).neg_(), -absence
        if gamma_pos > 0:
            weight = _power(absence, gamma_pos)
            positive_slope.mul_(weight)
            positive.mul_(weight)
        ctx.save_for_backward(slope.lerp_(positive_slope, targets))
        # lerp is y * positive + (1 - y) * negative in one pass.
        return negative.lerp_(positive, targets)

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "ASL without focusing_gradient has no second derivative here; "
                "take its gradient without create_graph=True."
            )
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None


def _remainder(shifted: torch.Tensor, margin: float) -> torch.Tensor:
    """`1 - p_m`, which is at least the margin, but for rounding; that matters to tiny margins alone."""
    remainder = 1 - shifted
    return remainder.clamp(min=margin) if margin < 1e-6 else remainder


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """`base ** exponent` for a base in [0, 1], whose gradient stays finite at 0 also for exponents below 1."""
    if exponent in (2, 4, 8):  # squaring: torch has fast paths up to 3 only, and the usual exponent is 4
        while exponent > 1:
            base, exponent = base.square(), exponent / 2
        return base
    return base.clamp(min=torch.finfo(base.dtype).tiny ** 0.25) ** exponent if exponent < 1 else base**exponent


class BinaryCrossEntropyLoss(nn.Module):
    """`binary_cross_entropy` as a module; see there for the formula and the arguments."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = check_reduction(reduction)

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        return binary_cross_entropy(logits, labels, self.reduction, sample_weight)


class AsymmetricLoss(nn.Module):
    """`asymmetric_loss` as a module; see there for the formula and the arguments."""

    def __init__(
        self,
        gamma_pos: float = 0.0,
        gamma_neg: float = 4.0,
        margin: float = 0.05,
        focusing_gradient: bool = False,
        reduction: str = "mean",
    ):
        super().__init__()
        _check_asymmetric_options(gamma_pos, gamma_neg, margin)
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.margin = margin
        self.focusing_gradient = focusing_gradient
        self.reduction = check_reduction(reduction)

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        return asymmetric_loss(
            logits,
            labels,
            gamma_pos=self.gamma_pos,
            gamma_neg=self.gamma_neg,
            margin=self.margin,
            focusing_gradient=self.focusing_gradient,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = [
    "AsymmetricLoss",
    "BinaryCrossEntropyLoss",
    "asymmetric_loss",
    "binary_cross_entropy",
    "check_reduction",
    "reduce_loss",
    "split_labels",
]
