# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What every label embedding must be, whatever its source."""

from collections import Counter
from collections.abc import Sequence

import torch


def check_label_names(label_names: Sequence[str]) -> list[str]:
    """Return the names as a list.

    Raises:
        ValueError: There is no name, or two are the same.
        TypeError: A single text was given.
    """
    if isinstance(label_names, str):
        raise TypeError(f"label_names must be a list of names, got the text {label_names!r}; write [{label_names!r}].")
    names = [str(name) for name in label_names]
    if not names:
        raise ValueError("label_names is empty; give every class a name.")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"two labels are named {name!r}; rename one.")
    return names


def check_embeddings(embeddings: torch.Tensor, num_labels: int, where: str, dim: int | None = None) -> torch.Tensor:
    """Return embeddings as a contiguous fp32 tensor of their own on the CPU.

    Args:
        embeddings: `(num_labels, dim)`, any real dtype.
        num_labels: Number of classes.
        where: Their source, for errors.
        dim: The dimension that is wanted; any by default.

    Raises:
        ValueError: The shape is wrong, or a value is NaN or infinite.
    """
    if embeddings.ndim != 2 or embeddings.shape[0] != num_labels or embeddings.shape[1] == 0:
        raise ValueError(
            f"{where} has shape {tuple(embeddings.shape)}; with {num_labels} label names it must be "
            f"({num_labels}, dim), one row a label."
        )
    if dim is not None and embeddings.shape[1] != dim:
        raise ValueError(
            f"{where} has {embeddings.shape[1]} dimensions, not the {dim} asked for; leave dim out or embed again."
        )
    if embeddings.is_complex():
        raise ValueError(f"{where} is complex ({embeddings.dtype}); label embeddings are real numbers.")
    values = embeddings.detach().to("cpu", torch.float32, copy=True).contiguous()
    wrong = (~values.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"{where} has NaN or infinite values, the first in row {wrong[0]}; embed the labels again.")
    return values


__all__ = ["check_embeddings", "check_label_names"]
