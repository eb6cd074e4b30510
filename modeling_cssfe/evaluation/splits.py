# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The split that is judged, and the counts of the training split beside it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import class_statistics, load_images


if TYPE_CHECKING:
    import datasets

DEFAULT_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class JudgedSplit:
    """The images that models are judged on.

    Attributes:
        dataset: As `load_images` gives it.
        name: Of the split.
        class_counts: Class name -> images in the data's own training split; None where it has none.
    """

    dataset: "datasets.Dataset"
    name: str
    class_counts: Mapping[str, int] | None = None


def load_split(data: "str | os.PathLike | datasets.Dataset | JudgedSplit", split: str | None = None) -> JudgedSplit:
    """Load one split, and count the classes of the training split beside it.

    Args:
        data: What `load_images` accepts, a loaded data set, or the result of this function.
        split: Its name; by default `test` if there is one, then `validation`, then the only one.

    Raises:
        ValueError: There is no such split; the message lists those that exist.
    """
    import datasets

    if isinstance(data, JudgedSplit):
        return data
    if isinstance(data, datasets.Dataset):
        return JudgedSplit(data, split or "data")
    splits = load_images(data)
    if split is None:
        split = next((name for name in DEFAULT_SPLITS if name in splits), None)
        if split is None and len(splits) == 1:
            split = next(iter(splits))
    if split is None or split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}: name one with --split.")
    counts = None
    if "train" in splits:
        statistics = class_statistics(splits["train"])
        counts = dict(zip(statistics.label_names, statistics.class_counts, strict=True))
    return JudgedSplit(splits[split], split, counts)


__all__ = ["DEFAULT_SPLITS", "JudgedSplit", "load_split"]
