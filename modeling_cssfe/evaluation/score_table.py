# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Scores of one model on one data set, with everything that judging them needs: `ScoreTable`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..common.names import require_distinct
from ..configuration_cssfe import assign_groups
from ..metrics import long_tail_map


@dataclass(frozen=True)
class ScoreTable:
    """Scores and labels of N images and C classes.

    Attributes:
        name: Of the model or the file, for tables.
        image_ids: N distinct ids.
        label_names: C distinct class names, in the order of the columns.
        scores: `(N, C)` float64 probabilities of the sigmoid, in [0, 1].
        labels: `(N, C)` float32: 1 present, 0 absent, -1 unknown.
        class_counts: Training images of each class.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.
        thresholds: Decision threshold of each class in [0, 1], or None for .5.

    Raises:
        ValueError: Lengths differ, ids or names repeat, a score is no probability, or a label is none of 1, 0, -1.
    """

    name: str
    image_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    scores: np.ndarray
    labels: np.ndarray
    class_counts: tuple[int, ...]
    head_min: int = 100
    tail_max: int = 20
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self):
        images, classes = len(self.image_ids), len(self.label_names)
        for what, array in (("scores", self.scores), ("labels", self.labels)):
            if array.shape != (images, classes):
                raise ValueError(
                    f"{self.name}: {what} have shape {array.shape}, not ({images}, {classes}), images x classes."
                )
        for what, values in (("class_counts", self.class_counts), ("thresholds", self.thresholds)):
            if values is not None and len(values) != classes:
                raise ValueError(f"{self.name}: {what} has {len(values)} entries for {classes} classes: give one each.")
        if self.thresholds is not None and not all(0 <= threshold <= 1 for threshold in self.thresholds):
            wrong_one = next(threshold for threshold in self.thresholds if not 0 <= threshold <= 1)
            raise ValueError(f"{self.name}: the threshold {wrong_one} is no probability; give thresholds in [0, 1].")
        require_distinct(self.image_ids, "image id", self.name)
        require_distinct(self.label_names, "label name", self.name)
        if images == 0:
            raise ValueError(f"{self.name}: there are no images; judge at least one.")
        wrong = ~((self.scores >= 0) & (self.scores <= 1))  # NaN too
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"{self.name}: the score of image {self.image_ids[row]!r} for {self.label_names[column]!r} is "
                f"{self.scores[row, column]}, no probability; give scores in [0, 1], a sigmoid of logits."
            )
        if not np.isin(self.labels, (1, 0, -1)).all():
            row, column = np.argwhere(~np.isin(self.labels, (1, 0, -1)))[0]
            raise ValueError(
                f"{self.name}: the label of image {self.image_ids[row]!r} for {self.label_names[column]!r} is "
                f"{self.labels[row, column]}; labels are 1, 0, or -1 for unknown."
            )

    @property
    def groups(self) -> list[str]:
        """`"head"`, `"medium"` or `"tail"` for each class."""
        return assign_groups(self.class_counts, self.head_min, self.tail_max)

    def select(self, rows: Sequence[int] | np.ndarray) -> "ScoreTable":
        """Return the table of some of the images, by row number."""
        rows = np.asarray(rows)
        return replace(
            self,
            image_ids=tuple(self.image_ids[row] for row in rows),
            scores=self.scores[rows],
            labels=self.labels[rows],
        )

    def figures(self, **options: Any) -> dict[str, Any]:
        """Return every figure of `long_tail_map`, at the table's thresholds unless `top_k` is given.

        Args:
            **options: `top_k`, `average_precision_method`, `num_bins` or `num_workers`, see `long_tail_map`.
        """
        if self.thresholds is not None and options.get("top_k") is None:
            options = {"threshold": self.thresholds, **options}
        return long_tail_map(
            self.scores,
            self.labels,
            self.class_counts,
            self.head_min,
            self.tail_max,
            label_names=self.label_names,
            **options,
        )


__all__ = ["ScoreTable"]
