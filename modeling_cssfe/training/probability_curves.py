# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Mean predicted probability of positives and of negatives, by group, as training goes on.

These are the probability curves by which Lin ("Probability Guided Loss for Long-Tailed Multi-Label Image
Classification", AAAI 2023) shows what a loss does to rare classes: under plain cross-entropy the positives of tail
classes stay at low probabilities long after those of head classes have risen.

A class's mean is over its images; a group's is over its classes, each with the same weight, so that the most frequent
class of a group does not hide the others. Unknown labels (-1 or NaN) take no part.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ..configuration_cssfe import GROUPS


GroupProbabilities = dict[str, dict[str, float | None]]

# Rows of the sums: probabilities of positives, their number, probabilities of negatives, their number.
_NUM_SUMS = 4


def group_probabilities(scores: Any, labels: Any, groups: Sequence[str]) -> GroupProbabilities:
    """Mean probability of positives and negatives of each group.

    Args:
        scores: `(N, C)` probabilities.
        labels: `(N, C)`, 1, 0, or -1 (or NaN) for unknown.
        groups: Group of each class, length C.

    Returns:
        Group -> `{"positive": p, "negative": p}`, fractions in [0, 1]; `None` where there is nothing to average. Groups
        without classes are left out.

    Raises:
        ValueError: The shapes do not fit.
    """
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels)
    if scores.shape != labels.shape or scores.ndim != 2 or scores.shape[1] != len(groups):
        raise ValueError(
            f"scores are {tuple(scores.shape)} and labels {tuple(labels.shape)} for {len(groups)} classes; give both "
            "as (N, C)."
        )
    return _group_means(_sums(scores.double(), labels).numpy(), groups)


class ProbabilityMeter:
    """Sums probabilities of training batches on their device, without waiting for it.

    Args:
        groups: Group of each class, length C.
        device: Where the logits are.
    """

    def __init__(self, groups: Sequence[str], device: torch.device | str = "cpu"):
        self.groups = list(groups)
        # Apple's GPUs have no float64.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._total = torch.zeros(_NUM_SUMS, len(self.groups), dtype=dtype, device=device)

    def reset(self) -> None:
        """Forget everything, at the start of an epoch."""
        self._total.zero_()

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch of `(B, C)` logits and labels."""
        self._total += _sums(logits.detach().to(self._total.dtype).sigmoid(), labels)

    def compute(self, accelerator: Accelerator | None = None) -> GroupProbabilities:
        """The means since the last reset, over all processes; see `group_probabilities`. Waits for the device."""
        total = self._total
        if accelerator is not None and accelerator.num_processes > 1:
            total = accelerator.reduce(total.clone(), reduction="sum")
        return _group_means(total.cpu().numpy(), self.groups)

    def state_dict(self) -> dict[str, Any]:
        """The sums of this process, as plain values for JSON, which keeps every bit of a float64."""
        return {"total": self._total.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._total.copy_(torch.tensor(state["total"], dtype=self._total.dtype))


def _sums(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    positive, negative = labels > 0, labels == 0  # NaN is neither
    zero = torch.zeros((), dtype=probabilities.dtype, device=probabilities.device)
    return torch.stack(
        [
            torch.where(positive, probabilities, zero).sum(0),
            positive.sum(0).to(probabilities.dtype),
            torch.where(negative, probabilities, zero).sum(0),
            negative.sum(0).to(probabilities.dtype),
        ]
    )


def _group_means(sums: np.ndarray, groups: Sequence[str]) -> GroupProbabilities:
    means: GroupProbabilities = {}
    for group in GROUPS:
        members = [at for at, name in enumerate(groups) if name == group]
        if members:
            means[group] = {
                "positive": _mean_of_means(sums[0, members], sums[1, members]),
                "negative": _mean_of_means(sums[2, members], sums[3, members]),
            }
    return means


def _mean_of_means(totals: np.ndarray, counts: np.ndarray) -> float | None:
    seen = counts > 0
    return float((totals[seen] / counts[seen]).mean()) if seen.any() else None


__all__ = ["GroupProbabilities", "ProbabilityMeter", "group_probabilities"]
