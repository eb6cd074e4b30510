# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What the losses share: class statistics, the module that keeps them, and the checks of options."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..loss_cssfe import check_reduction


def check_class_counts(class_counts: Any, num_samples: float | None = None) -> tuple[float, ...]:
    """Check training counts and return them as plain numbers.

    Args:
        class_counts: Number of training images of each class, a sequence, array or tensor of `classes` numbers >= 0.
        num_samples: Number of training images; no count may exceed it.

    Returns:
        The counts, one float a class.

    Raises:
        TypeError: `class_counts` is not a sequence of numbers.
        ValueError: It is empty, not one-dimensional, negative, not finite, or larger than `num_samples`.
    """
    if isinstance(class_counts, torch.Tensor):
        class_counts = class_counts.detach().cpu().tolist()
    elif hasattr(class_counts, "tolist"):
        class_counts = class_counts.tolist()
    try:
        counts = tuple(float(count) for count in class_counts)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"class_counts must be a sequence with one number a class, got {class_counts!r}; "
            "pass the number of training images of each class."
        ) from error
    if not counts:
        raise ValueError("class_counts is empty; pass the number of training images of each class.")
    for index, count in enumerate(counts):
        if not math.isfinite(count) or count < 0:
            raise ValueError(f"class_counts[{index}] is {count}; counts must be finite and >= 0.")
    if num_samples is not None:
        if not hasattr(num_samples, "__float__"):
            raise TypeError(f"num_samples is {num_samples!r}; pass the number of training images, at least 1.")
        if not math.isfinite(num_samples) or num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; pass the number of training images, at least 1.")
        if max(counts) > num_samples:
            index = counts.index(max(counts))
            raise ValueError(
                f"class_counts[{index}] is {counts[index]:g}, more than num_samples = {num_samples:g}; "
                "num_samples is the number of training images, of which each class holds a part."
            )
    return counts


def effective_number_weight(class_counts: Sequence[float], beta: float) -> torch.Tensor:
    """Class weights by the effective number of samples, `(1 - beta) / (1 - beta^n)`.

    A class without images is weighted like a class with one, which gives it weight 1, the largest.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019: the effective number in
    section 3, the weight in section 4.

    Args:
        class_counts: Training images of each class.
        beta: In `[0, 1)`; 0 weights all classes by 1, towards 1 it becomes `1 / n`.

    Returns:
        `(classes,)` weights in fp64.

    Raises:
        ValueError: `beta` is out of range.
    """
    if not 0 <= check_at_least("beta", beta, 0) < 1:
        raise ValueError(f"beta must lie in [0, 1), got {beta}.")
    counts = _seen_counts(class_counts)
    if beta == 0:
        return torch.ones_like(counts)
    # expm1 keeps the digits that 1 - beta^n loses for beta near 1.
    return (1 - beta) / -torch.expm1(counts * math.log(beta))


def inverse_count(class_counts: Sequence[float]) -> torch.Tensor:
    """`1 / n` of each class in fp64; a class without images counts as seen once."""
    return _seen_counts(class_counts).reciprocal()


def log_odds(class_counts: Sequence[float], num_samples: float) -> torch.Tensor:
    """Log-odds of each class in training, `log(n / (N - n))`.

    A class that no image or every image carries has infinite odds: it is taken to be seen once, or missed once.

    Args:
        class_counts: Training images of each class.
        num_samples: Training images in all.

    Returns:
        `(classes,)` finite log-odds in fp64, negative for classes in less than half of the images.
    """
    margin = min(1.0, num_samples / 2)
    counts = torch.tensor(class_counts, dtype=torch.float64, device="cpu").clamp(margin, num_samples - margin)
    return torch.log(counts) - torch.log(num_samples - counts)


def _seen_counts(class_counts: Sequence[float]) -> torch.Tensor:
    return torch.tensor(class_counts, dtype=torch.float64, device="cpu").clamp(min=1)


def check_at_least(name: str, value: float, low: float) -> float:
    """Return a finite number that is >= `low`, or raise `ValueError`, or `TypeError`, naming it."""
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a finite number >= {low:g}, got {value!r}.")
    if not math.isfinite(value) or value < low:
        raise ValueError(f"{name} must be a finite number >= {low:g}, got {value}.")
    return value


def check_positive(name: str, value: float) -> float:
    """Return a finite number that is > 0, or raise `ValueError`, or `TypeError`, naming it."""
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a finite number > 0, got {value!r}.")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number > 0, got {value}.")
    return value


class ClassStatisticsLoss(nn.Module):
    """Base of the losses that weigh classes by their training counts.

    The statistics are non-persistent buffers: they move with `.to()`, are never saved, and are computed again from the
    plain counts after every move, so a half-precision model does not round them and a model built on the meta device
    gets them back from `to_empty`. A framework that overwrites buffers without such a move (as the loading code of
    transformers does) calls `reset_buffers` afterwards.

    Args:
        class_counts: Training images of each class.
        num_samples: Training images in all, for the losses that need it.
        reduction: `"mean"`, `"sum"` or `"none"`.
    """

    def __init__(self, class_counts: Any, num_samples: float | None = None, reduction: str = "mean"):
        super().__init__()
        self.class_counts = check_class_counts(class_counts, num_samples)
        self.num_samples = num_samples
        self.reduction = check_reduction(reduction)

    def class_statistics(self) -> dict[str, torch.Tensor]:
        """Return every buffer by name on the CPU: whole numbers, or fp64, which becomes fp32."""
        raise NotImplementedError

    def register_statistics(self) -> None:
        """Create the buffers; the last line of a subclass's `__init__`."""
        for name, value in self.class_statistics().items():
            # The dtype first: some devices have no fp64.
            value = value.float() if value.is_floating_point() else value
            self.register_buffer(name, value.to(torch.get_default_device()), persistent=False)

    def reset_buffers(self) -> None:
        """Compute the statistics again, in fp32 (fp64 if the buffers are), on the device where the buffers are."""
        for name, value in self.class_statistics().items():
            old = self._buffers[name]
            if old is None:
                continue
            if value.is_floating_point() and old.dtype != torch.float64:
                value = value.float()
            self._buffers[name] = value.to(old.device)

    def _apply(self, fn: Callable, recurse: bool = True) -> "ClassStatisticsLoss":
        super()._apply(fn, recurse)
        self.reset_buffers()
        return self

    def check_classes(self, logits: torch.Tensor) -> None:
        """Raise `ValueError` if the logits have another number of classes than the counts."""
        if logits.ndim == 2 and logits.shape[1] != len(self.class_counts):
            raise ValueError(
                f"logits have {logits.shape[1]} classes but class_counts has {len(self.class_counts)}; "
                "build the loss with one count a class."
            )
