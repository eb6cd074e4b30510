# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Figures of decisions: F1 in four averages, and OP, OR, OF1, CP, CR, CF1 of the multi-label literature.

A label is decided on where its score is at or above a threshold, or where it is among the `top_k` highest scores of its
image. An unknown label is decided on too (it can take a place among the `top_k`), but the decision is not counted.

Two conventions to know:

- 0 / 0 counts as 0, as in scikit-learn: a class that has positives but is never predicted has precision 0.
- A class without positives is left out of every mean over classes. Its false alarms are still false alarms in the
  figures that pool all labels (micro F1, OP, OR, OF1) or that are taken image by image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .inputs import ScoredLabels, check_positive_integer, check_scored_labels, mean_or_none


DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class DecisionCounts:
    """How decisions and labels meet, over known labels.

    Attributes:
        true_positives: int64 `(C,)`.
        false_positives: int64 `(C,)`.
        false_negatives: int64 `(C,)`.
        image_f1_sum: Sum over images of the F1 of an image's decisions.
        num_images: Images with at least one known label.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    image_f1_sum: float
    num_images: int

    @property
    def positives(self) -> np.ndarray:
        """Positives of each class, int64 `(C,)`."""
        return self.true_positives + self.false_negatives

    @property
    def precision(self) -> np.ndarray:
        """Precision of each class, fp64 `(C,)`, NaN for a class without positives."""
        return self._per_class(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        """Recall of each class, fp64 `(C,)`, NaN for a class without positives."""
        return self._per_class(self.true_positives, self.positives)

    @property
    def f1(self) -> np.ndarray:
        """F1 of each class, fp64 `(C,)`, NaN for a class without positives."""
        return self._per_class(2 * self.true_positives, 2 * self.true_positives + self._mistakes)

    @property
    def _mistakes(self) -> np.ndarray:
        return self.false_positives + self.false_negatives

    def _per_class(self, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(self.positives > 0, _divide(part, whole), np.nan)


def check_decision(
    threshold: float | Sequence[float] | np.ndarray, top_k: int | None, num_classes: int
) -> tuple[np.ndarray, int | None]:
    """Check how labels are decided on.

    Args:
        threshold: One number, or one a class.
        top_k: Number of labels an image gets, in place of a threshold.
        num_classes: C.

    Returns:
        The thresholds, fp64 `(C,)`, and `top_k`.

    Raises:
        ValueError: Thresholds of the wrong length or not finite; `top_k` outside [1, C], or given together with a
            threshold.
        TypeError: `top_k` is no whole number, or a threshold is no number.
    """
    try:
        values = np.asarray(threshold, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"threshold must be a number or one number a class, got {threshold!r}.") from error
    if values.shape not in ((), (num_classes,)):
        raise ValueError(
            f"threshold has shape {values.shape} but there are {num_classes} classes; pass one number or one a class."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"threshold must be finite, got {threshold!r}; use a number above 1 to switch a class off.")
    if top_k is not None:
        if values.ndim or values != DEFAULT_THRESHOLD:
            raise ValueError(f"top_k={top_k} and threshold={threshold!r} are two ways to decide; give only one.")
        if check_positive_integer("top_k", top_k) > num_classes:
            raise ValueError(f"top_k is {top_k} but there are only {num_classes} classes; pass {num_classes} or less.")
    return np.broadcast_to(values, (num_classes,)), top_k


def decide(
    scores: np.ndarray, threshold: float | Sequence[float] | np.ndarray = DEFAULT_THRESHOLD, top_k: int | None = None
) -> np.ndarray:
    """Turn scores into decisions.

    Args:
        scores: `(N, C)` floating-point array.
        threshold: A number or one a class; a score at or above it is a yes. Compared in the dtype of the scores, so
            that the fp32 score 0.7 reaches the threshold 0.7.
        top_k: The number of yeses an image gets, in place of a threshold. Among equal scores the first classes win.

    Returns:
        Boolean `(N, C)`.

    Raises:
        ValueError: Invalid thresholds or `top_k`.
        TypeError: Likewise.
    """
    thresholds, top_k = check_decision(threshold, top_k, scores.shape[1])
    return _decide(scores, thresholds, top_k)


def count_decisions(
    data: ScoredLabels,
    threshold: float | Sequence[float] | np.ndarray = DEFAULT_THRESHOLD,
    top_k: int | None = None,
    num_workers: int | None = 1,
) -> DecisionCounts:
    """Count right and wrong decisions in one pass over the images.

    Args:
        data: Checked scores and references.
        threshold: As in `decide`.
        top_k: As in `decide`.
        num_workers: Threads; `None` takes one a core.

    Returns:
        The counts.

    Raises:
        ValueError: Invalid thresholds or `top_k`.
        TypeError: Likewise.
    """
    thresholds, top_k = check_decision(threshold, top_k, data.num_classes)

    def count(scores: np.ndarray, positive: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, float, int]:
        decided = _decide(scores, thresholds, top_k) & known
        hits = decided & positive
        per_image = image_f1(decided, positive)
        per_class = np.stack([hits.sum(axis=0), decided.sum(axis=0), positive.sum(axis=0)]).astype(np.int64)
        return per_class, float(per_image.sum()), int(known.any(axis=1).sum())

    blocks = data.map_rows(count, num_workers)
    hits, decided, positives = np.sum([block[0] for block in blocks], axis=0)
    return DecisionCounts(
        true_positives=hits,
        false_positives=decided - hits,
        false_negatives=positives - hits,
        image_f1_sum=sum(block[1] for block in blocks),
        num_images=sum(block[2] for block in blocks),
    )


def image_f1(decided: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """F1 of each image's decisions, fp64 `(n,)`, 0 for an image with neither decision nor positive.

    Args:
        decided: Boolean `(n, C)`, false where the label is unknown.
        positive: Boolean `(n, C)`, likewise.
    """
    return _divide(2 * (decided & positive).sum(axis=1), decided.sum(axis=1) + positive.sum(axis=1))


def f1_averages(counts: DecisionCounts) -> dict[str, float | None]:
    """F1 of pooled labels, and its means over classes and over images; see `f1_scores` for the keys.

    Args:
        counts: From `count_decisions`.

    Returns:
        Fractions in [0, 1]; None where nothing can be averaged.
    """
    hits, mistakes = counts.true_positives.sum(), counts._mistakes.sum()
    per_class = counts.f1
    evaluated = counts.positives > 0
    has_positives = bool(evaluated.any())
    weighted = np.average(per_class[evaluated], weights=counts.positives[evaluated]) if has_positives else None
    return {
        "f1_micro": float(_divide(2 * hits, 2 * hits + mistakes)) if has_positives else None,
        "f1_macro": mean_or_none(per_class),
        "f1_weighted": None if weighted is None else float(weighted),
        "f1_samples": counts.image_f1_sum / counts.num_images if counts.num_images else None,
    }


def overall_and_per_class(counts: DecisionCounts) -> dict[str, float | None]:
    """OP, OR, OF1, CP, CR, CF1; see `precision_recall_scores` for their meaning.

    Args:
        counts: From `count_decisions`.

    Returns:
        Fractions in [0, 1] under the lower-case names; None where no class has a positive.
    """
    if not (counts.positives > 0).any():
        return dict.fromkeys(("op", "or", "of1", "cp", "cr", "cf1"))
    hits = counts.true_positives.sum()
    overall_precision = float(_divide(hits, hits + counts.false_positives.sum()))
    overall_recall = float(_divide(hits, counts.positives.sum()))
    class_precision = float(np.nanmean(counts.precision))
    class_recall = float(np.nanmean(counts.recall))
    return {
        "op": overall_precision,
        "or": overall_recall,
        "of1": _harmonic_mean(overall_precision, overall_recall),
        "cp": class_precision,
        "cr": class_recall,
        "cf1": _harmonic_mean(class_precision, class_recall),
    }


def f1_scores(
    scores: Any,
    references: Any,
    *,
    threshold: float | Sequence[float] | np.ndarray = DEFAULT_THRESHOLD,
    top_k: int | None = None,
    num_workers: int | None = 1,
) -> dict[str, float | None]:
    """F1 in the four averages of scikit-learn's `f1_score`.

    Args:
        scores: `(N, C)` array, tensor or nested lists.
        references: `(N, C)` with 1, 0, and -1 or NaN for unknown.
        threshold: As in `decide`.
        top_k: As in `decide`.
        num_workers: Threads; `None` takes one a core.

    Returns:
        `f1_micro` pools all labels; `f1_macro` is the mean over the classes that have positives; `f1_weighted` weights
        them by their positives; `f1_samples` is the mean over images (0 for an image with neither decision nor
        positive). Fractions in [0, 1]; None where nothing can be averaged.

    Raises:
        ValueError: Invalid scores, references, thresholds or `top_k`.
        TypeError: Likewise.

    Examples:
        >>> from modeling_cssfe.metrics import f1_scores
        >>> figures = f1_scores([[0.9, 0.2], [0.8, 0.7], [0.3, 0.7]], [[1, 0], [0, 1], [1, 1]])
        >>> {name: round(value, 4) for name, value in figures.items()}
        {'f1_micro': 0.75, 'f1_macro': 0.75, 'f1_weighted': 0.75, 'f1_samples': 0.7778}
    """
    return f1_averages(count_decisions(check_scored_labels(scores, references), threshold, top_k, num_workers))


def precision_recall_scores(
    scores: Any,
    references: Any,
    *,
    threshold: float | Sequence[float] | np.ndarray = DEFAULT_THRESHOLD,
    top_k: int | None = None,
    num_workers: int | None = 1,
) -> dict[str, float | None]:
    """Overall (O) and per-class (C) precision, recall and F1 of the multi-label literature.

    `op` and `or` pool all labels, `cp` and `cr` are means over the classes that have positives, and `of1`, `cf1` are
    the harmonic means of the two. `cf1` therefore differs from `f1_macro`, the mean of the classes' F1.

    Args:
        scores: `(N, C)` array, tensor or nested lists.
        references: `(N, C)` with 1, 0, and -1 or NaN for unknown.
        threshold: As in `decide`.
        top_k: As in `decide`; the literature prints the figures of a threshold and of the top 3.
        num_workers: Threads; `None` takes one a core.

    Returns:
        Fractions in [0, 1] under `op`, `or`, `of1`, `cp`, `cr`, `cf1`; all None where no class has a positive.

    Raises:
        ValueError: Invalid scores, references, thresholds or `top_k`.
        TypeError: Likewise.

    Examples:
        >>> from modeling_cssfe.metrics import precision_recall_scores
        >>> figures = precision_recall_scores([[0.9, 0.2], [0.8, 0.7], [0.3, 0.7]], [[1, 0], [0, 0], [1, 1]])
        >>> {name: round(value, 4) for name, value in figures.items()}
        {'op': 0.5, 'or': 0.6667, 'of1': 0.5714, 'cp': 0.5, 'cr': 0.75, 'cf1': 0.6}
    """
    return overall_and_per_class(
        count_decisions(check_scored_labels(scores, references), threshold, top_k, num_workers)
    )


def _decide(scores: np.ndarray, thresholds: np.ndarray, top_k: int | None) -> np.ndarray:
    if top_k is None:
        return scores >= thresholds.astype(scores.dtype)
    decided = np.zeros(scores.shape, dtype=bool)
    # A full stable sort, not a partition, which would break ties differently from row to row.
    first = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    np.put_along_axis(decided, first, True, axis=1)
    return decided


def _divide(part: Any, whole: Any) -> np.ndarray:
    """`part / whole` in fp64 with 0 / 0 = 0; `whole` is 0 only where `part` is."""
    return np.asarray(part, dtype=np.float64) / np.maximum(whole, 1)


def _harmonic_mean(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second > 0 else 0.0
