# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class-balanced two-way loss: a softmax-like comparison of labels within images and of images within classes."""

from typing import Any

import torch

from ..loss_cssfe import reduce_loss, split_labels
from ._common import ClassStatisticsLoss, check_positive, effective_number_weight
from ._fused import refuse_label_gradient, refuse_second_derivative, softplus


# In place of minus infinity, of which the maximum cannot be taken off.
_EXCLUDED = -1e30


def two_way_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    positive_temperature: float = 4.0,
    negative_temperature: float = 1.0,
    class_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Two-way multi-label loss, with class weights on the way that compares images.

    A set of positive and negative logits costs

    `log(1 + exp(T_n logsumexp_neg(z / T_n) + T_p logsumexp_pos(-z / T_p)))`,

    a soft hinge between the largest negative and the smallest positive logit. The loss is the mean of that over images
    that have a positive label (each compares its classes) plus the mean, weighted by class, over classes that have a
    positive image in the batch (each compares its images). Every class present counts once in the second mean, however
    many positives it has, and its weight offsets how rarely a tail class is present at all.

    Source: Kobayashi, "Two-way Multi-Label Loss", CVPR 2023, section 3, and released code. The class weights are
    those of Cui et al., CVPR 2019; without them (beta 0) this is Kobayashi's loss. His code masks with -100, which
    leaks at logits near that; this one does not.

    Labels are compared, so they are needed hard: one of .5 or more is positive, a smaller one negative.

    When to use: ranking quality (mAP) rather than calibrated probabilities, with batches of several images a class.
    Recommended sampler: class_aware, which makes most classes present in a batch.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch, classes)` in `[0, 1]`; negative or `NaN` is unknown.
        positive_temperature: `T_p`, > 0. The authors' 4.
        negative_temperature: `T_n`, > 0. The authors' 1.
        class_weight: `(classes,)` weights, or none.
        reduction: `"mean"` is the loss as stated; `"none"` shares each image's and each class's term equally among
            its known labels, scaled so that the mean over known labels is that loss; `"sum"` is the sum of the shares.
        sample_weight: `(batch,)` weights of the images' shares.

    Returns:
        A scalar, or `(batch, classes)` for `"none"`.

    Raises:
        ValueError: Shapes differ, the reduction is unknown, or an option is out of range.
    """
    check_positive("positive_temperature", positive_temperature)
    check_positive("negative_temperature", negative_temperature)
    scores, targets, known = split_labels(logits, labels)
    refuse_label_gradient(targets)
    if len(scores) == 0:  # there is no largest logit of a class
        return reduce_loss(scores * 0, known, reduction, sample_weight)
    of_images, of_classes = _TwoWays.apply(
        scores,
        targets >= 0.5,
        known,
        None if class_weight is None else class_weight.to(scores.dtype),
        positive_temperature,
        negative_temperature,
    )
    if reduction == "mean" and sample_weight is None:
        return of_images.sum() + of_classes.sum()
    of_images = of_images / known.sum(dim=1, keepdim=True).clamp(min=1)
    of_classes = of_classes / known.sum(dim=0, keepdim=True).clamp(min=1)
    return reduce_loss((of_images + of_classes) * known.sum(), known, reduction, sample_weight)


class _TwoWays(torch.autograd.Function):
    """What each image and each class adds to the loss, with closed-form gradients for the reasons in `_fused.py`.

    The gradient of a term in its logits is `sigmoid(gap)` times the softmax over the negatives, minus the softmax over
    the positives; the temperatures cancel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: torch.Tensor,
        is_positive: torch.Tensor,
        known: torch.Tensor,
        class_weight: torch.Tensor | None,
        positive_temperature: float,
        negative_temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # (2, batch, classes): negatives, positives
        sides = scores.repeat(2, 1, 1)
        sides[0].div_(negative_temperature).masked_fill_(is_positive | ~known, _EXCLUDED)
        sides[1].div_(-positive_temperature).masked_fill_(~is_positive, _EXCLUDED)
        terms, slopes = [], []
        for dim in (2, 1):
            largest = sides.amax(dim, keepdim=True)
            shifted = sides - largest if dim == 2 else sides.sub_(largest)
            # exp(-80) is lost beside the 1 of the largest, and exp is slow where it underflows.
            exponentials = shifted.clamp_(min=-80).exp_()
            total = exponentials.sum(dim, keepdim=True)
            # Without a positive, or a negative, the gap is hugely negative: the term and its gradient are exactly 0.
            negative, positive = total.log().add_(largest)
            gap = negative.mul_(negative_temperature).add_(positive, alpha=positive_temperature)
            counted = (largest[1] > _EXCLUDED / 2).sum(dtype=scores.dtype).clamp_(min=1)
            factor = counted.reciprocal() if class_weight is None or dim == 2 else class_weight / counted
            terms.append(softplus(gap).mul_(factor))
            if ctx.needs_input_grad[0]:
                negative, positive = exponentials.mul_(gap.sigmoid_().mul_(factor) / total)
                slopes.append(negative.sub_(positive))
        ctx.save_for_backward(known, *slopes)
        return terms[0], terms[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_second_derivative()
        known, of_images, of_classes = ctx.saved_tensors
        gradient = (of_images * grads[0]).addcmul_(of_classes, grads[1])
        # What is left of exp(-80) where a label is unknown.
        return gradient.masked_fill_(~known, 0), *(None,) * 5


class TwoWayLoss(ClassStatisticsLoss):
    """`two_way_loss` as a module, class weights by effective number of samples; see there for the formula.

    Args:
        class_counts: Training images of each class; a class without images counts as seen once.
        positive_temperature: Temperature of positive logits, > 0.
        negative_temperature: Temperature of negative logits, > 0.
        beta: Of the effective number, in `[0, 1)`; 0 weighs classes equally, which is the loss of the paper. The
            weights are scaled to mean 1. The default is that of class-balanced focal loss on these data sets.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: An option or a count is out of range.
    """

    class_weight: torch.Tensor

    def __init__(
        self,
        class_counts: Any,
        positive_temperature: float = 4.0,
        negative_temperature: float = 1.0,
        beta: float = 0.9,
        reduction: str = "mean",
    ):
        super().__init__(class_counts, reduction=reduction)
        self.positive_temperature = check_positive("positive_temperature", positive_temperature)
        self.negative_temperature = check_positive("negative_temperature", negative_temperature)
        self.beta = beta
        self.register_statistics()

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return the class weights."""
        weight = effective_number_weight(self.class_counts, self.beta)
        return {"class_weight": weight / weight.mean()}

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of `(batch, classes)` logits and multi-hot labels."""
        self.check_classes(logits)
        return two_way_loss(
            logits,
            labels,
            positive_temperature=self.positive_temperature,
            negative_temperature=self.negative_temperature,
            class_weight=self.class_weight,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


__all__ = ["TwoWayLoss", "two_way_loss"]
