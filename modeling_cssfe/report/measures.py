# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What the report shows of one table beyond `long_tail_map`: curves, reliability and confusion of labels.

Letters: N images, C classes, G classes of one group. An unknown label takes no part in anything.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..configuration_cssfe import GROUPS
from ..evaluation.score_table import ScoreTable
from ..metrics import decide
from ..metrics.average_precision import class_curve
from ..metrics.calibration import DEFAULT_BINS, calibration_sums


RECALL_POINTS = 200
# A pair of labels is ranked only if at least this many images could have shown the mistake.
MIN_PAIR_IMAGES = 5
_ROWS_AT_A_TIME = 4096  # fp32 counts of a block are exact far beyond that


@dataclass(frozen=True)
class Confusion:
    """How often absent labels are predicted on images of another label.

    Attributes:
        wrong: int64 `(C, C)`: images with label A present and label B absent on which B is predicted, at `[A, B]`.
        images: int64 `(C, C)`: images with A present and B absent.
    """

    wrong: np.ndarray
    images: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """`wrong / images`, fp64 `(C, C)`, NaN where no image could show the mistake (the diagonal always)."""
        return np.divide(self.wrong, self.images, out=np.full(self.wrong.shape, np.nan), where=self.images > 0)

    def top_pairs(self, number: int | None = None) -> list[tuple[int, int]]:
        """Pairs (A, B) with at least one mistake, the most certain ones first.

        They are ordered by the lower end of the 95 % score interval of their rate (Wilson, "Probable Inference, the Law
        of Succession, and Statistical Inference", JASA 1927), so that 2 of 2 images do not outrank 80 of 100.

        Args:
            number: How many; `None` gives all.
        """
        rows, columns = np.nonzero((self.wrong > 0) & (self.images >= MIN_PAIR_IMAGES))
        total = self.images[rows, columns]
        rate, z = self.wrong[rows, columns] / total, 1.959964
        centre = rate + z**2 / (2 * total)
        spread = z * np.sqrt(rate * (1 - rate) / total + z**2 / (4 * total**2))
        order = np.argsort(-(centre - spread) / (1 + z**2 / total), kind="stable")[:number]
        return [(int(rows[index]), int(columns[index])) for index in order]


@dataclass(frozen=True)
class Judgement:
    """A table and everything that is shown of it.

    Attributes:
        table: What was judged.
        figures: The result of `long_tail_map` at the table's thresholds.
        curves: Group -> fp64 `(G, RECALL_POINTS)`, precision at each of `recall_points()` of its classes with
            positives.
        reliability: Group -> fp64 `(3, bins)`: labels, summed probability and positives in each bin, all classes of the
            group together.
        confusion: Of co-occurring labels.
    """

    table: ScoreTable
    figures: dict[str, Any]
    curves: dict[str, np.ndarray]
    reliability: dict[str, np.ndarray]
    confusion: Confusion

    @property
    def thresholds(self) -> np.ndarray:
        """Decision threshold of each class, fp64 `(C,)`."""
        return thresholds_of(self.table)


def judge(table: ScoreTable) -> Judgement:
    """Work out everything that the report shows of a table.

    Args:
        table: Scores and labels.

    Returns:
        The figures and what the pictures are drawn from.
    """
    with warnings.catch_warnings():
        # The page itself names the classes without positives, which is all that these warnings say.
        warnings.simplefilter("ignore", UserWarning)
        figures = table.figures(num_workers=None)
    curves: dict[str, list[np.ndarray]] = {group: [] for group in GROUPS}
    reliability = {group: np.zeros((3, DEFAULT_BINS)) for group in GROUPS}
    for column, group in enumerate(table.groups):
        known = table.labels[:, column] >= 0
        scores, positive = table.scores[known, column], table.labels[known, column] == 1
        reliability[group] += calibration_sums(scores, positive, DEFAULT_BINS)
        if positive.any():
            curves[group].append(precision_at_recall(scores, positive))
    stacked = {group: np.array(rows).reshape(-1, RECALL_POINTS) for group, rows in curves.items()}
    return Judgement(table, figures, stacked, reliability, confuse_labels(table))


def thresholds_of(table: ScoreTable) -> np.ndarray:
    """Decision threshold of each class, .5 where the table has none, fp64 `(C,)`."""
    return np.full(len(table.label_names), 0.5) if table.thresholds is None else np.asarray(table.thresholds)


def recall_points() -> np.ndarray:
    """The middles of `RECALL_POINTS` equal steps of recall from 0 to 1."""
    return (np.arange(RECALL_POINTS) + 0.5) / RECALL_POINTS


def precision_at_recall(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Precision of one class where its recall first reaches each of `recall_points()`.

    These are the steps whose area is the average precision (`modeling_cssfe.metrics.average_precision`), so the mean of
    the values is the average precision up to the width of the steps.

    Args:
        scores: `(n,)`.
        positive: Boolean `(n,)`, at least one True.

    Returns:
        fp64 `(RECALL_POINTS,)`.
    """
    curve = class_curve(scores, positive)
    # recall >= (2 i + 1) / (2 points) in whole numbers, so that no rounding moves a step.
    wanted = (2 * np.arange(RECALL_POINTS) + 1) * curve.num_positives
    first = np.searchsorted(2 * RECALL_POINTS * curve.true_positives, wanted, side="left")
    return (curve.true_positives / curve.predicted)[first]


def confuse_labels(table: ScoreTable) -> Confusion:
    """Count, for each pair of labels, how often the absent one is predicted where the other is present.

    Args:
        table: Scores and labels; predictions are made at its thresholds.

    Returns:
        The counts.
    """
    classes = len(table.label_names)
    wrong, images = np.zeros((2, classes, classes), dtype=np.int64)
    thresholds = thresholds_of(table)
    for start in range(0, len(table.image_ids), _ROWS_AT_A_TIME):
        labels = table.labels[start : start + _ROWS_AT_A_TIME]
        predicted = decide(table.scores[start : start + _ROWS_AT_A_TIME], thresholds)
        present = (labels == 1).astype(np.float32).T
        images += (present @ (labels == 0).astype(np.float32)).astype(np.int64)
        wrong += (present @ ((labels == 0) & predicted).astype(np.float32)).astype(np.int64)
    return Confusion(wrong, images)


__all__ = [
    "MIN_PAIR_IMAGES",
    "RECALL_POINTS",
    "Confusion",
    "Judgement",
    "confuse_labels",
    "judge",
    "precision_at_recall",
    "recall_points",
    "thresholds_of",
]
