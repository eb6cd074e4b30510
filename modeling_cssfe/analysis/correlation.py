# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Spearman's rank correlation of many pairs of maps at once, on any device.

scipy's `spearmanr` takes one pair a call; here the last dimension is ranked and everything before it is a batch.
Source of the measure: C. Spearman, "The Proof and Measurement of Association between Two Things", 1904.
"""

import torch


def average_ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 1 along the last dimension; equal values share the mean of their ranks.

    Args:
        values: `(..., L)` without NaN.

    Returns:
        `(..., L)` fp64 (multiples of a half, exact).
    """
    values = values.contiguous()
    ordered = values.sort(dim=-1).values
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    # The ranks below + 1 .. not_above are those of the equal values.
    return (below + not_above + 1).double() / 2


def spearman(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation along the last dimension.

    Args:
        first: `(..., L)`.
        second: Of the same shape.

    Returns:
        `(...)` fp64 in [-1, 1]; NaN where one of the two is constant or has a value that is not finite.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"cannot correlate the shapes {tuple(first.shape)} and {tuple(second.shape)}; resize one map to the other."
        )
    finite = first.isfinite().all(dim=-1) & second.isfinite().all(dim=-1)
    ranks = [average_ranks(values.nan_to_num()) for values in (first, second)]
    centred = [values - values.mean(dim=-1, keepdim=True) for values in ranks]
    product = (centred[0] * centred[1]).sum(dim=-1)
    size = (centred[0].square().sum(dim=-1) * centred[1].square().sum(dim=-1)).sqrt()
    found = (product / size).clamp(-1, 1)  # 0 / 0 is NaN: a constant map has no order
    return torch.where(finite, found, torch.nan)


__all__ = ["average_ranks", "spearman"]
