# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Figures of rankings: AUROC of each class, coverage and ranking loss of each image.

AUROC ranks the images of one class, coverage and ranking loss the classes of one image. The latter two compare scores
of different classes and so ask more of a model than average precision does.
"""

from typing import Any

import numpy as np

from .average_precision import ClassCurve, class_curve
from .inputs import ScoredLabels, check_scored_labels


def curve_auroc(curve: ClassCurve) -> float:
    """Area under the ROC curve of one class: how often a positive outranks a negative, a tie counting half.

    Args:
        curve: The counts of the class.

    Returns:
        A fraction in [0, 1], or NaN if the class has no positive or no negative.
    """
    num_negatives = curve.num_images - curve.num_positives
    if curve.num_positives == 0 or num_negatives == 0:
        return float("nan")
    negatives_at_or_above = curve.predicted - curve.true_positives
    negatives_above = curve.above - (curve.true_positives - curve.tied_positives)
    # Twice the number of pairs won, in whole numbers: exact up to a billion images.
    won_twice = 2 * num_negatives - negatives_above - negatives_at_or_above
    return int(curve.tied_positives @ won_twice) / (2 * curve.num_positives * num_negatives)


def auroc(scores: Any, references: Any, *, num_workers: int | None = 1) -> np.ndarray:
    """Area under the ROC curve of each class.

    Args:
        scores: `(N, C)` array, tensor or nested lists; only the order within a class matters.
        references: `(N, C)` with 1, 0, and -1 or NaN for an unknown label, which is left out of its class.
        num_workers: Threads over classes; `None` takes one a core.

    Returns:
        fp64 `(C,)`, fractions in [0, 1], NaN for a class without positives or without negatives.

    Raises:
        ValueError: Invalid scores or references.
        TypeError: The input does not consist of numbers.

    Examples:
        >>> from modeling_cssfe.metrics import auroc
        >>> auroc([[0.9], [0.8], [0.3], [0.1]], [[1], [0], [1], [0]]).tolist()
        [0.75]
    """
    data = check_scored_labels(scores, references)
    return np.array(data.map_columns(lambda s, y: curve_auroc(class_curve(s, y)), num_workers), dtype=np.float64)


def rank_classes(scores: np.ndarray, positive: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and ranking loss of each image.

    Args:
        scores: `(n, C)`.
        positive: Boolean `(n, C)`, true only where `known` is.
        known: Boolean `(n, C)`.

    Returns:
        int64 `(n,)` numbers of classes, and fp64 `(n,)` fractions; 0 for an image without positives.
    """
    # (rows, C) in descending order of the score
    order = np.argsort(-scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    positive, known = np.take_along_axis(positive, order, axis=1), np.take_along_axis(known, order, axis=1)
    # Equal scores share the rank of the last of them, the cautious reading for both figures.
    last = np.full(scores.shape, scores.shape[1] - 1, dtype=np.int64)
    ties_end = ordered[:, :-1] != ordered[:, 1:]
    last[:, :-1] = np.where(ties_end, np.arange(scores.shape[1] - 1), last[:, :-1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    at_or_above = np.take_along_axis(np.cumsum(known, axis=1), last, axis=1)
    negatives_at_or_above = np.take_along_axis(np.cumsum(known & ~positive, axis=1), last, axis=1)
    coverage = np.where(positive, at_or_above, 0).max(axis=1)
    num_positives = positive.sum(axis=1)
    pairs = num_positives * (known.sum(axis=1) - num_positives)
    wrong = np.where(positive, negatives_at_or_above, 0).sum(axis=1)
    return coverage, wrong / np.maximum(pairs, 1)


def coverage_and_ranking_loss(data: ScoredLabels, num_workers: int | None = 1) -> tuple[float | None, float | None]:
    """`coverage_error` and `ranking_loss` in one pass over the images.

    Args:
        data: Checked scores and references.
        num_workers: Threads; `None` takes one a core.

    Returns:
        Both figures, None where no label is known.
    """

    def rank(scores: np.ndarray, positive: np.ndarray, known: np.ndarray) -> tuple[int, float, int]:
        coverage, loss = rank_classes(scores, positive, known)
        return int(coverage.sum()), float(loss.sum()), int(known.any(axis=1).sum())

    blocks = data.map_rows(rank, num_workers)
    num_images = sum(block[2] for block in blocks)
    if num_images == 0:
        return None, None
    return sum(block[0] for block in blocks) / num_images, sum(block[1] for block in blocks) / num_images


def coverage_error(scores: Any, references: Any, *, num_workers: int | None = 1) -> float | None:
    """How many of the highest-scored classes must be taken to cover all positives of an image, on average.

    As in scikit-learn's `coverage_error`: classes with equal scores are taken together, and an image without positives
    counts as 0. Unknown labels are not counted; an image without a known label is left out.

    Args:
        scores: `(N, C)` array, tensor or nested lists of scores that can be compared across classes.
        references: `(N, C)` with 1, 0, and -1 or NaN for unknown.
        num_workers: Threads; `None` takes one a core.

    Returns:
        A number of classes in [0, C], best if it is the mean number of positives; None where no label is known.

    Raises:
        ValueError: Invalid scores or references.
        TypeError: The input does not consist of numbers.

    Examples:
        >>> from modeling_cssfe.metrics import coverage_error
        >>> coverage_error([[0.9, 0.5, 0.1], [0.2, 0.6, 0.4]], [[1, 0, 0], [0, 0, 1]])
        1.5
    """
    return coverage_and_ranking_loss(check_scored_labels(scores, references), num_workers)[0]


def ranking_loss(scores: Any, references: Any, *, num_workers: int | None = 1) -> float | None:
    """Fraction of an image's (positive, negative) pairs of classes in the wrong order, on average.

    As in scikit-learn's `label_ranking_loss`: a tie is wrong, and an image with only positives or only negatives counts
    as 0. Pairs with an unknown label are not counted; an image without a known label is left out.

    Args:
        scores: `(N, C)` array, tensor or nested lists of scores that can be compared across classes.
        references: `(N, C)` with 1, 0, and -1 or NaN for unknown.
        num_workers: Threads; `None` takes one a core.

    Returns:
        A fraction in [0, 1], best 0; None where no label is known.

    Raises:
        ValueError: Invalid scores or references.
        TypeError: The input does not consist of numbers.

    Examples:
        >>> from modeling_cssfe.metrics import ranking_loss
        >>> ranking_loss([[0.9, 0.5, 0.1], [0.2, 0.6, 0.4]], [[1, 0, 0], [0, 0, 1]])
        0.25
    """
    return coverage_and_ranking_loss(check_scored_labels(scores, references), num_workers)[1]
