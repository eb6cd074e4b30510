# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Every loss by name, and how to build one."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..common.names import suggest
from .asl import AsymmetricLoss
from .bce import BinaryCrossEntropyLoss
from .cb_focal import ClassBalancedFocalLoss
from .db import DistributionBalancedLoss
from .db_focal import DistributionBalancedFocalLoss
from .focal import FocalLoss
from .ldam import LDAMLoss
from .logit_adjustment import LogitAdjustedLoss
from .mlsm import MultiLabelSoftMarginLoss
from .pg import ProbabilityGuidedLoss
from .rw import ReweightedBCELoss
from .two_way import TwoWayLoss


# What the data set says about itself; everything else is an option of the loss.
_STATISTICS = ("class_counts", "num_samples")


@dataclass(frozen=True)
class LossEntry:
    """One loss of the registry.

    Attributes:
        name: What `build_loss` calls it.
        cls: Its module.
        description: One line: what it does, and where it comes from.
        sampler: Name of the sampler it is recommended with.
        binary_labels: Whether it asks the labels which classes an image has, so that smoothed ones mislead it.
    """

    name: str
    cls: type[nn.Module]
    description: str
    sampler: str
    binary_labels: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Every option with its default."""
        return {name: parameter.default for name, parameter in self._parameters() if name not in _STATISTICS}

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics of the data set it is built from: none, `class_counts`, or `num_samples` as well."""
        return tuple(name for name, _ in self._parameters() if name in _STATISTICS)

    def _parameters(self) -> Iterable[tuple[str, inspect.Parameter]]:
        return inspect.signature(self.cls).parameters.items()


_ENTRIES = (
    LossEntry(
        "bce",
        BinaryCrossEntropyLoss,
        "Binary cross-entropy: the baseline (ERM), calibrated to the training frequencies.",
        sampler="uniform",
    ),
    LossEntry(
        "mlsm",
        MultiLabelSoftMarginLoss,
        "Multi-label soft margin: binary cross-entropy averaged image by image (torch).",
        sampler="uniform",
    ),
    LossEntry(
        "rw",
        ReweightedBCELoss,
        "Re-weighted BCE: classes weigh by the inverse square root of their frequency.",
        sampler="uniform",
    ),
    LossEntry(
        "focal",
        FocalLoss,
        "Focal loss: labels that are already right weigh less (Lin et al., ICCV 2017).",
        sampler="uniform",
    ),
    LossEntry(
        "cb_focal",
        ClassBalancedFocalLoss,
        "Focal loss, classes weighted by effective number of samples (Cui et al., CVPR 2019).",
        sampler="uniform",
    ),
    LossEntry(
        "asl",
        AsymmetricLoss,
        "Asymmetric loss: easy negatives fade, the easiest vanish (Ridnik et al., ICCV 2021); CSSFE's loss.",
        sampler="uniform",
    ),
    LossEntry(
        "ldam",
        LDAMLoss,
        "Wider margins for rarer classes, deferred re-weighting (Cao et al., NeurIPS 2019).",
        sampler="uniform",
    ),
    LossEntry(
        "db",
        DistributionBalancedLoss,
        "Distribution-balanced: co-occurrence-aware weights, tolerance to negatives (Wu et al., ECCV 2020).",
        sampler="class_aware",
        binary_labels=True,
    ),
    LossEntry(
        "db_focal",
        DistributionBalancedFocalLoss,
        "Distribution-balanced loss with focus (Wu et al., ECCV 2020).",
        sampler="class_aware",
        binary_labels=True,
    ),
    LossEntry(
        "pg",
        ProbabilityGuidedLoss,
        "Probability-guided: positives and negatives keep one pace (Lin, AAAI 2023).",
        sampler="class_aware",
    ),
    LossEntry(
        "two_way",
        TwoWayLoss,
        "Two-way softmax-like ranking of classes and of images, class-balanced (Kobayashi, CVPR 2023).",
        sampler="class_aware",
        binary_labels=True,
    ),
    LossEntry(
        "logit_adjustment",
        LogitAdjustedLoss,
        "BCE with the class prior added in training, so bare logits are balanced (Menon et al., ICLR 2021).",
        sampler="uniform",
    ),
)


def list_losses() -> list[str]:
    """Return the names of all losses, in the order of the documentation."""
    return [entry.name for entry in _ENTRIES]


def get_loss_entry(name: str) -> LossEntry:
    """Return the registry entry of a loss.

    Args:
        name: One of `list_losses()`.

    Returns:
        The entry: class, one-line description, recommended sampler, defaults, and what it needs to know of the data.

    Raises:
        ValueError: Unknown name; the message lists what exists and suggests the nearest.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    raise ValueError(f"unknown loss {name!r}; {suggest(name, list_losses())}")


def build_loss(name: str, class_counts: Any = None, num_samples: float | None = None, **overrides: Any) -> nn.Module:
    """Build a loss by name.

    Every loss is called as `loss(logits, labels, sample_weight=None)` with `(batch, classes)` logits and multi-hot
    labels, of which `-1` (any negative number) and `NaN` are unknown and take no part. It never changes its inputs, and
    computes in fp32 at least, whatever the dtype of the logits.

    Args:
        name: One of `list_losses()`.
        class_counts: Training images of each class; losses that do not weigh classes ignore it.
        num_samples: Training images in all; likewise.
        **overrides: Options of the loss, see `get_loss_entry(name).defaults`. All have `reduction`: `"mean"` over known
            labels, `"sum"`, or `"none"` for `(batch, classes)`.

    Returns:
        The loss as a module. Some (`ldam`) have `set_epoch(epoch, num_epochs)`, to be called as each epoch begins.

    Raises:
        ValueError: Unknown name or option, a statistic is missing, or a value is out of range.
        TypeError: A statistic is not a number or not a sequence of numbers, or an option is no number.

    Example:
        >>> import torch
        >>> loss = build_loss("rw", class_counts=[8, 2])
        >>> loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.6931)
    """
    entry = get_loss_entry(name)
    options = entry.defaults
    for option in overrides:
        if option not in options:
            raise ValueError(f"loss {name!r} has no option {option!r}; {suggest(option, list(options))}")
    given = {"class_counts": class_counts, "num_samples": num_samples}
    for statistic in entry.needs:
        if given[statistic] is None:
            meaning = {
                "class_counts": "the number of training images of each class",
                "num_samples": "the number of training images",
            }[statistic]
            raise ValueError(f"loss {name!r} needs {statistic}, {meaning}; pass build_loss({name!r}, {statistic}=...).")
    return entry.cls(**{statistic: given[statistic] for statistic in entry.needs}, **overrides)


__all__ = ["LossEntry", "build_loss", "get_loss_entry", "list_losses"]
