# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The two-sided loss that most losses here are made of, with its gradient in closed form.

Composed of autograd's operations, a focal loss runs some fifteen of them forward and more backward and keeps a dozen
`(batch, classes)` temporaries, which is several times what binary cross-entropy costs. Value and slope share nearly all
of their terms, so here one pass in place computes both, keeps one matrix, and backward is one product. The closed form
also stays finite where the derivative of a power does not.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


# Beyond 40, log(1 + exp(x)) equals x to the last bit in fp64 too; torch's own default of 20 is made for fp32.
_LINEAR_FROM = 40.0

Factor = float | torch.Tensor
Guide = Callable[[torch.Tensor, torch.Tensor], tuple[Factor, ...]]


def softplus(x: torch.Tensor) -> torch.Tensor:
    """`log(1 + exp(x))`, exact to rounding for any finite `x`."""
    return F.softplus(x, threshold=_LINEAR_FROM)


def refuse_label_gradient(targets: torch.Tensor) -> None:
    """Raise `ValueError` where a gradient for the labels would silently be missing."""
    if targets.requires_grad and torch.is_grad_enabled():
        raise ValueError("labels require a gradient, which this loss does not compute; pass labels.detach().")


def refuse_second_derivative() -> None:
    """Raise `RuntimeError` where a second derivative is prepared for, which would silently come out as 0."""
    if torch.is_grad_enabled():
        raise RuntimeError("this loss has no second derivative; take its gradient without create_graph=True.")


def two_sided_loss(
    scores: torch.Tensor,
    targets: torch.Tensor,
    weight: Factor = 1.0,
    shift: Factor = 0.0,
    margin: Factor = 0.0,
    positive_scale: Factor = 1.0,
    negative_scale: Factor = 1.0,
    positive_divisor: Factor = 1.0,
    negative_divisor: Factor = 1.0,
    gamma: float = 0.0,
    guide: Guide | None = None,
) -> torch.Tensor:
    r"""Loss `weight * (y P + (1 - y) N)` of each label, from two focused softplus sides.

    `P = softplus(e) sigmoid(e)^gamma / divisor` at `e = -scale * (z - shift - margin)`: how wrong the logit `z` is for
    a positive label, and `N` likewise at `e = scale * (z - shift)` for a negative one; each side has its own scale,
    divisor and gamma. Linear in the label, so soft labels have a meaning. Every option may be a number or a tensor that
    broadcasts from `(classes,)`.

    Differentiable once, with respect to `scores` alone.

    Args:
        scores: `(batch, classes)` logits, fp32 or fp64; not changed.
        targets: `(batch, classes)` in `[0, 1]`, same dtype.
        weight: Factor of each label's loss, up to `(batch, classes)`.
        shift: Taken off all logits.
        margin: Taken off the logits of positives as well.
        positive_scale: Factor of positives' logits, > 0.
        negative_scale: Factor of negatives' logits, > 0.
        positive_divisor: Divides the positive side, > 0.
        negative_divisor: Divides the negative side, > 0.
        gamma: Focusing exponent of both sides, >= 0.
        guide: Gives the exponents of the positive and the negative side in place of gamma, each a number or a tensor
            that broadcasts from `(classes,)`; called with both sides' `sigmoid(e)`, the probability of the wrong
            answer, which it must not change.

    Returns:
        `(batch, classes)`.

    Raises:
        ValueError: The targets require a gradient.
    """
    refuse_label_gradient(targets)
    options = (
        weight,
        shift,
        margin,
        positive_scale,
        negative_scale,
        positive_divisor,
        negative_divisor,
        gamma,
        guide,
    )
    dtype = scores.dtype
    return _TwoSided.apply(
        scores, targets, *(value.to(dtype) if isinstance(value, torch.Tensor) else value for value in options)
    )


class _TwoSided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: torch.Tensor,
        targets: torch.Tensor,
        weight: Any,
        shift: Any,
        margin: Any,
        positive_scale: Any,
        negative_scale: Any,
        positive_divisor: Any,
        negative_divisor: Any,
        gamma: float,
        guide: Guide | None,
    ) -> torch.Tensor:
        slope_needed = ctx.needs_input_grad[0]
        error = scores if _is(shift, 0) else scores - shift
        positive_error = (error if _is(margin, 0) else error - margin) * -positive_scale
        # A fresh copy even at scale 1, since the sides work in place; `error` itself is fresh if it was shifted.
        negative_error = error * negative_scale if error is scores else error.mul_(negative_scale)
        gammas: Any = (gamma, gamma)
        wrong: Any = (None, None)
        if guide is not None:
            wrong = positive_error.sigmoid(), negative_error.sigmoid()
            gammas = guide(*wrong)
        value, slope = _side(positive_error, wrong[0], -positive_scale, positive_divisor, gammas[0], slope_needed)
        values, slopes = _side(negative_error, wrong[1], negative_scale, negative_divisor, gammas[1], slope_needed)
        # lerp(N, P, y) is (1 - y) N + y P in one pass, and exact where y is 0 or 1.
        values.lerp_(value, targets)
        if not _is(weight, 1):
            values.mul_(weight)
        if slope_needed:
            slopes.lerp_(slope, targets)
            if not _is(weight, 1):
                slopes.mul_(weight)
            ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_second_derivative()
        (slopes,) = ctx.saved_tensors
        return (grads[0] * slopes, *(None,) * 10)


def _side(
    error: torch.Tensor, sigmoid: torch.Tensor | None, scale: Any, divisor: Any, gamma: Any, slope_needed: bool
) -> tuple[Any, Any]:
    """`softplus(e) sigmoid(e)^gamma / divisor`, and its slope in the logit if needed; overwrites the error.

    The slope is `scale / divisor * s^gamma (s + g - s g)` with `s = sigmoid(e)` and `g = gamma softplus(e)`.
    """
    value = softplus(error)
    if _is(gamma, 0):
        slope = error.sigmoid_() if slope_needed else None
    else:
        if not isinstance(gamma, torch.Tensor) and gamma == int(gamma) and gamma <= 8:
            sigmoid = error.sigmoid_() if sigmoid is None else sigmoid
            focus = integer_power(sigmoid, int(gamma))
        else:
            # log sigmoid(e) = e - softplus(e); `**` with other exponents costs several times an `exp` on a CPU.
            focus = (error - value).mul_(gamma).exp_()
            sigmoid = error.sigmoid_() if sigmoid is None else sigmoid
        slope = (value * gamma).lerp_(value.new_ones(()), sigmoid).mul_(focus) if slope_needed else None
        value.mul_(focus)
    if not _is(divisor, 1):
        value.div_(divisor)
        scale = scale / divisor
    if slope is not None and not _is(scale, 1):
        slope.mul_(scale)
    return value, slope


def integer_power(base: torch.Tensor, exponent: int) -> torch.Tensor:
    """`base ** exponent` for a whole `exponent >= 1`, by squaring."""
    result: torch.Tensor | None = None
    while True:
        if exponent & 1:
            result = base if result is None else result * base
        exponent >>= 1
        if not exponent:
            return base if result is None else result
        base = base.square()


def _is(value: Any, number: float) -> bool:
    return not isinstance(value, torch.Tensor) and value == number
