# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Expected calibration error (ECE) of all labels together and of each class.

Each known label is one yes-or-no question. The probabilities of "yes" are put into bins of equal width; a bin is wrong
by the distance between its mean probability and its fraction of positives; the error is the mean of these distances,
weighted by the size of the bins.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, there for the most probable class
of a single-label network. The reading for yes-or-no questions is that of torchmetrics' `binary_calibration_error`, and
its mean over classes is the classwise ECE of Kull et al., "Beyond temperature scaling", NeurIPS 2019, section 2.
"""

from typing import Any

import numpy as np

from .inputs import ScoredLabels, check_positive_integer, check_scored_labels


DEFAULT_BINS = 15


def calibration_sums(scores: np.ndarray, positive: np.ndarray, num_bins: int) -> np.ndarray:
    """Count, sum of probabilities and number of positives in each bin of one class.

    Bin `i` is `[i / num_bins, (i + 1) / num_bins)`; the last one includes 1.

    Args:
        scores: `(n,)` probabilities in [0, 1].
        positive: Boolean `(n,)`.
        num_bins: Number of bins.

    Returns:
        fp64 `(3, num_bins)`.
    """
    bins = np.minimum((scores.astype(np.float64) * num_bins).astype(np.int64), num_bins - 1)
    return np.stack(
        [
            np.bincount(bins, minlength=num_bins).astype(np.float64),
            np.bincount(bins, weights=scores, minlength=num_bins),
            np.bincount(bins[positive], minlength=num_bins).astype(np.float64),
        ]
    )


def error_of_sums(sums: np.ndarray) -> float:
    """Calibration error of `calibration_sums`, or of the sum of those of several classes.

    Args:
        sums: `(3, num_bins)`.

    Returns:
        A fraction in [0, 1], or NaN where no label is known.
    """
    count, probability, positives = sums
    total = count.sum()
    return float(np.abs(positives - probability).sum() / total) if total else float("nan")


def expected_calibration_error(
    scores: Any, references: Any, *, num_bins: int = DEFAULT_BINS, num_workers: int | None = 1
) -> float | None:
    """Calibration error of all known labels pooled.

    Rare labels are nearly always absent, so this figure is dominated by easy negatives; `per_class_calibration_error`
    shows the tail.

    Args:
        scores: `(N, C)` array, tensor or nested lists of probabilities in [0, 1].
        references: `(N, C)` with 1, 0, and -1 or NaN for unknown.
        num_bins: Bins of equal width.
        num_workers: Threads over classes; `None` takes one a core.

    Returns:
        A fraction in [0, 1], best 0; None where no label is known.

    Raises:
        ValueError: Invalid scores, references or `num_bins`, or a score outside [0, 1].
        TypeError: Likewise.

    Examples:
        >>> from modeling_cssfe.metrics import expected_calibration_error
        >>> round(expected_calibration_error([[0.9], [0.8], [0.1], [0.2]], [[1], [1], [0], [0]], num_bins=2), 4)
        0.15
    """
    error = error_of_sums(np.sum(_sums_of_classes(scores, references, num_bins, num_workers), axis=0))
    return None if np.isnan(error) else error


def per_class_calibration_error(
    scores: Any, references: Any, *, num_bins: int = DEFAULT_BINS, num_workers: int | None = 1
) -> np.ndarray:
    """Calibration error of each class.

    Args:
        scores: `(N, C)` array, tensor or nested lists of probabilities in [0, 1].
        references: `(N, C)` with 1, 0, and -1 or NaN for unknown.
        num_bins: Bins of equal width.
        num_workers: Threads over classes; `None` takes one a core.

    Returns:
        fp64 `(C,)`, fractions in [0, 1], best 0, NaN for a class without positives.

    Raises:
        ValueError: Invalid scores, references or `num_bins`, or a score outside [0, 1].
        TypeError: Likewise.
    """
    return class_errors(_sums_of_classes(scores, references, num_bins, num_workers))


def class_errors(sums: list[np.ndarray]) -> np.ndarray:
    """Calibration errors of the classes from their sums, fp64 `(C,)`, NaN for a class without positives."""
    return np.array([error_of_sums(each) if each[2].any() else np.nan for each in sums], dtype=np.float64)


def _sums_of_classes(scores: Any, references: Any, num_bins: int, num_workers: int | None) -> list[np.ndarray]:
    bins = check_positive_integer("num_bins", num_bins)
    data = check_scored_labels(scores, references)
    _check_probabilities(data)
    return data.map_columns(lambda s, y: calibration_sums(s, y, bins), num_workers)


def _check_probabilities(data: ScoredLabels) -> None:
    if not data.are_probabilities:
        raise ValueError(
            f"calibration needs probabilities in [0, 1], got scores from {data.lowest:g} to {data.highest:g}; "
            "apply a sigmoid to logits first."
        )
