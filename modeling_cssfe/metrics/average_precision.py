# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Average precision of each class, from the counts at the distinct scores of its positives.

Between two neighbouring positives precision only falls, and at a score that no positive has recall does not move. So
both ways of summing up a precision-recall curve need nothing but the points at the scores of positives, and these need
no ranking of the images: the values are sorted (several times faster than an argsort) and the few positives are looked
up among them.

Images with equal scores have no order among themselves. They enter the curve together, as one point; any other rule
would make the figure depend on the order of the images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .inputs import check_choice, check_scored_labels


AVERAGE_PRECISION_METHODS = ("area", "11-point")


@dataclass(frozen=True)
class ClassCurve:
    """Counts of one class at each distinct score of its positives, from the highest score to the lowest.

    Attributes:
        tied_positives: Positives with exactly this score, int64 `(points,)`.
        true_positives: Positives with this score or a higher one.
        predicted: Images with this score or a higher one.
        above: Images with a higher score.
        num_positives: Positives in all.
        num_images: Images in all.
    """

    tied_positives: np.ndarray
    true_positives: np.ndarray
    predicted: np.ndarray
    above: np.ndarray
    num_positives: int
    num_images: int


def class_curve(scores: np.ndarray, positive: np.ndarray) -> ClassCurve:
    """Count the images above each distinct score of a positive.

    Args:
        scores: `(n,)` finite scores of one class. Not changed.
        positive: Boolean `(n,)`.

    Returns:
        The counts; no points where there is no positive.
    """
    ordered = np.sort(scores)
    points, tied = np.unique(scores[positive], return_counts=True)
    points, tied = points[::-1], tied[::-1].astype(np.int64)
    return ClassCurve(
        tied_positives=tied,
        true_positives=np.cumsum(tied),
        predicted=scores.size - np.searchsorted(ordered, points, side="left").astype(np.int64),
        above=scores.size - np.searchsorted(ordered, points, side="right").astype(np.int64),
        num_positives=int(tied.sum()),
        num_images=int(scores.size),
    )


def curve_average_precision(curve: ClassCurve, method: str = "area") -> float:
    r"""Average precision of one class; see `average_precision` for the two methods.

    Args:
        curve: The counts of the class.
        method: `"area"` or `"11-point"`.

    Returns:
        A fraction in (0, 1], or NaN for a class without positives.

    Raises:
        ValueError: Unknown method.
    """
    check_choice("average_precision_method", method, AVERAGE_PRECISION_METHODS)
    if curve.num_positives == 0:
        return float("nan")
    precision = curve.true_positives / curve.predicted
    if method == "area":
        return float(precision @ (curve.tied_positives / curve.num_positives))
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # recall >= level / 10 in whole numbers: in floating point 3 of 10 positives do not reach the level of 0.3.
    first = np.searchsorted(10 * curve.true_positives, np.arange(11) * curve.num_positives, side="left")
    return float(best[first].mean())


def average_precision(scores: Any, references: Any, *, method: str = "area", num_workers: int | None = 1) -> np.ndarray:
    r"""Average precision (AP) of each class.

    `"area"` is the area under the steps of the precision-recall curve, `sum_k (R_k - R_{k-1}) P_k` over the distinct
    scores from high to low, as in scikit-learn's `average_precision_score`. `"11-point"` is the mean over the recall
    levels 0, 0.1, ..., 1 of the best precision at that recall or a higher one (Everingham et al., "The PASCAL Visual
    Object Classes (VOC) Challenge", IJCV 2010, section 4.2). Both put images with equal scores into one point.

    Args:
        scores: `(N, C)` array, tensor or nested lists of finite scores; only their order within a class matters.
        references: `(N, C)` with 1, 0, and -1 or NaN for an unknown label, which is left out of its class.
        method: `"area"` or `"11-point"`.
        num_workers: Threads over classes; `None` takes one a core. Each holds 16 classes at a time.

    Returns:
        fp64 `(C,)`, fractions in (0, 1], NaN for a class without positives.

    Raises:
        ValueError: Shapes, scores, labels or the method are invalid.
        TypeError: The input does not consist of numbers.

    Examples:
        >>> from modeling_cssfe.metrics import average_precision
        >>> scores = [[0.9, 0.2], [0.8, 0.7], [0.3, 0.7], [0.1, 0.6]]
        >>> references = [[1, 0], [0, 1], [1, 0], [0, 0]]
        >>> average_precision(scores, references).round(4).tolist()
        [0.8333, 0.5]
    """
    check_choice("average_precision_method", method, AVERAGE_PRECISION_METHODS)
    data = check_scored_labels(scores, references)
    return np.array(
        data.map_columns(lambda s, y: curve_average_precision(class_curve(s, y), method), num_workers), dtype=np.float64
    )
