# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The figures of `long_tail_map` when every image counts with a weight, for many weightings at once.

A bootstrap resample is a multiset of images, that is a whole-number weight for each image; a permutation of two models
is a 0-1 weight for each of their scores. So neither needs to copy scores or to sort again: each class is sorted once,
and every count on its precision-recall curve is a sum of weights over a run of the sorted images. Those sums are a
sparse matrix (curve points x images) times the weights (images x weightings).

Letters: N images, C classes, B weightings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..configuration_cssfe import GROUPS
from ..metrics.average_precision import AVERAGE_PRECISION_METHODS
from ..metrics.calibration import DEFAULT_BINS
from ..metrics.inputs import check_choice, check_positive_integer
from ..metrics.long_tail import MAP_FIGURES
from ..metrics.ranking import rank_classes
from ..metrics.threshold_metrics import DEFAULT_THRESHOLD, decide, image_f1


def _by_group(figure: str) -> tuple[str, ...]:
    return (figure, *(f"{figure}_{group}" for group in GROUPS))


# What is computed together -> the figures that come of it. `f1_macro_tail` is `groups["tail"]["f1_macro"]`.
FIGURES: dict[str, tuple[str, ...]] = {
    "average_precision": MAP_FIGURES,
    "decisions": (
        "f1_micro",
        *_by_group("f1_macro"),
        "f1_weighted",
        "f1_samples",
        "op",
        "or",
        "of1",
        "cp",
        "cr",
        "cf1",
    ),
    "auroc": _by_group("auroc_macro"),
    "ranking": ("coverage_error", "ranking_loss"),
    "calibration": ("ece", *_by_group("ece_macro")),
}
# The same for the figures of each class.
CLASS_FIGURES: dict[str, tuple[str, ...]] = {
    "average_precision": ("average_precision",),
    "decisions": ("precision", "recall", "f1"),
    "auroc": ("auroc",),
    "calibration": ("ece",),
}
_NUM_IMAGES_A_BLOCK = 4096


@dataclass(frozen=True)
class _SortedClass:
    """One class in descending order of its scores, over the images whose label is known.

    Attributes:
        images: Rows of the sorted images, int32 `(n,)`.
        curve: Limits of 2 P + 1 runs of them: above the first of P distinct scores of positives, at it, between it and
            the second, at the second, ..., and the rest.
        positives: Rows of the positives, sorted likewise.
        tied: Limits of P runs of them with equal scores.
        bins: Limits of the runs of `images` in each bin of the calibration error, highest bin first.
    """

    images: np.ndarray
    curve: np.ndarray
    positives: np.ndarray
    tied: np.ndarray
    bins: np.ndarray


class WeightedFigures:
    """Figures of one matrix of scores under weightings of its images.

    Memory: 4 bytes a score, and what `evaluate` is given.

    Args:
        scores: fp64 `(N, C)` finite scores; probabilities if the calibration error is wanted.
        labels: `(N, C)` with 1, 0, -1.
        groups: Group of each class.
        metrics: Figures wanted, of `FIGURES`; None for all.
        thresholds: Decision threshold, one or one a class.
        top_k: The number of yeses an image gets, in place of a threshold.
        average_precision_method: `"area"` or `"11-point"`.
        num_bins: Bins of the calibration error.

    Raises:
        ValueError: A switch or a figure's name is unknown.
    """

    def __init__(
        self,
        scores: np.ndarray,
        labels: np.ndarray,
        groups: Sequence[str],
        *,
        metrics: Sequence[str] | None = None,
        thresholds: float | Sequence[float] = DEFAULT_THRESHOLD,
        top_k: int | None = None,
        average_precision_method: str = "area",
        num_bins: int = DEFAULT_BINS,
    ):
        check_choice("average_precision_method", average_precision_method, AVERAGE_PRECISION_METHODS)
        self.figures = choose_figures(metrics)
        self._parts = {part for part, names in FIGURES.items() if set(names) & set(self.figures)}
        self._method = average_precision_method
        self._num_bins = check_positive_integer("num_bins", num_bins)
        self._scores = scores
        self._num_images = len(scores)
        self._groups = np.array(groups)
        known, positive = labels >= 0, labels == 1
        self._ones = np.ones(self._num_images)
        self._classes = []
        if self._parts & {"average_precision", "auroc", "calibration"}:
            columns = zip(scores.T, known.T, positive.T, strict=True)
            self._classes = [_sort_class(*column, self._num_bins) for column in columns]
        self._positive, self._positives = positive, _sparse(positive)
        if "decisions" in self._parts:
            decided = decide(scores, thresholds if top_k is None else DEFAULT_THRESHOLD, top_k) & known
            self._decided, self._hits = _sparse(decided), _sparse(decided & positive)
            self._image_f1 = image_f1(decided, positive)
        if "ranking" in self._parts:
            blocks = [
                rank_classes(scores[rows], positive[rows], known[rows])
                for rows in _slices(self._num_images, _NUM_IMAGES_A_BLOCK)
            ]
            self._image_ranks = [np.concatenate(column) for column in zip(*blocks, strict=True)]
        self._has_label = known.any(axis=1).astype(np.float64)

    def evaluate(self, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """Evaluate B weightings.

        Args:
            weights: fp64 `(N, B)`, whole numbers of 0 or more.

        Returns:
            Figure -> `(B,)`, figure of each class -> `(C, B)`, and the weight of each class's positives, `(C, B)`. NaN
            where there is nothing to average: a class without positives has no figure and is left out of every mean.
        """
        weights = np.ascontiguousarray(weights, dtype=np.float64)
        positives = self._positives @ weights
        figures: dict[str, np.ndarray] = {}
        by_class: dict[str, np.ndarray] = {}
        if self._classes:
            self._evaluate_sorted(weights, positives, figures, by_class)
        if "decisions" in self._parts:
            self._evaluate_decisions(weights, positives, figures, by_class)
        if "ranking" in self._parts:
            total = self._has_label @ weights
            for name, values in zip(FIGURES["ranking"], self._image_ranks, strict=True):
                figures[name] = _ratio(values @ weights, total)
        return {name: figures[name] for name in self.figures}, by_class, positives

    def _evaluate_sorted(self, weights: np.ndarray, positives: np.ndarray, figures: dict, by_class: dict) -> None:
        """Average precision, AUROC and calibration error, class by class."""
        curves = [name for name in ("average_precision", "auroc") if name in self._parts]
        rows: dict[str, list[np.ndarray]] = {name: [] for name in (*curves, "ece")}
        pooled, pooled_total = np.zeros((self._num_bins, weights.shape[1])), np.zeros(weights.shape[1])
        for index, entry in enumerate(self._classes):
            if curves:
                # (2 P + 1, B) and (P, B)
                runs = np.cumsum(_run_sums(entry.images, entry.curve, self._ones, weights), axis=0)
                tied = _run_sums(entry.positives, entry.tied, self._ones, weights)
                found = np.cumsum(tied, axis=0)
                if "average_precision" in curves:
                    rows["average_precision"].append(self._average_precision(runs[1::2], tied, found))
                if "auroc" in curves:
                    rows["auroc"].append(_auroc(runs, tied, found))
            if "calibration" in self._parts:
                residuals = self._positive[entry.images, index] - self._scores[entry.images, index]
                sums = _run_sums(entry.images, entry.bins, residuals, weights)
                total = _run_sums(entry.images, entry.curve[[0, -1]], self._ones, weights)[0]
                pooled += sums
                pooled_total += total
                error = _ratio(np.abs(sums).sum(axis=0), total)
                rows["ece"].append(np.where(positives[index] > 0, error, np.nan))
        for name, prefix in (("average_precision", "map"), ("auroc", "auroc_macro"), ("ece", "ece_macro")):
            if rows.get(name):
                by_class[name] = np.stack(rows[name])
                self._add_means(prefix, by_class[name], figures)
        if "calibration" in self._parts:
            figures["ece"] = _ratio(np.abs(pooled).sum(axis=0), pooled_total)

    def _average_precision(self, predicted: np.ndarray, tied: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Average precision of one class, `(B,)`; see `curve_average_precision`."""
        if not len(found):
            return np.full(predicted.shape[1], np.nan)
        precision = found / np.maximum(predicted, 1)
        if self._method == "area":
            # A point whose positives have no weight adds nothing, as if it were not there.
            return _ratio((precision * tied).sum(axis=0), found[-1])
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = [np.argmax(10 * found >= level * found[-1], axis=0) for level in range(11)]
        mean = np.take_along_axis(best, np.stack(reached), axis=0).mean(axis=0)
        return np.where(found[-1] > 0, mean, np.nan)

    def _evaluate_decisions(self, weights: np.ndarray, positives: np.ndarray, figures: dict, by_class: dict) -> None:
        """F1, precision and recall; the conventions are those of `modeling_cssfe.metrics.threshold_metrics`."""
        hits, decided = self._hits @ weights, self._decided @ weights
        present = positives > 0
        any_present = present.any(axis=0)
        f1 = 2 * hits / np.maximum(decided + positives, 1)
        by_class["precision"] = np.where(present, hits / np.maximum(decided, 1), np.nan)
        by_class["recall"] = np.where(present, hits / np.maximum(positives, 1), np.nan)
        by_class["f1"] = np.where(present, f1, np.nan)
        self._add_means("f1_macro", by_class["f1"], figures)
        all_hits, all_decided, all_positives = (array.sum(axis=0) for array in (hits, decided, positives))
        pooled = {
            "f1_micro": 2 * all_hits / np.maximum(all_decided + all_positives, 1),
            "f1_weighted": _ratio((f1 * positives).sum(axis=0), all_positives),
            "op": all_hits / np.maximum(all_decided, 1),
            "or": all_hits / np.maximum(all_positives, 1),
            "cp": _mean(by_class["precision"]),
            "cr": _mean(by_class["recall"]),
        }
        pooled["of1"] = _harmonic_mean(pooled["op"], pooled["or"])
        pooled["cf1"] = _harmonic_mean(pooled["cp"], pooled["cr"])
        figures.update({name: np.where(any_present, values, np.nan) for name, values in pooled.items()})
        figures["f1_samples"] = _ratio(self._image_f1 @ weights, self._has_label @ weights)

    def _add_means(self, figure: str, values: np.ndarray, figures: dict[str, np.ndarray]) -> None:
        """Means over all classes and over each group."""
        figures["map_total" if figure == "map" else figure] = _mean(values)
        for group in GROUPS:
            figures[f"{figure}_{group}"] = _mean(values[self._groups == group])


def choose_figures(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the figures wanted, all for None.

    Raises:
        ValueError: A name is unknown.
    """
    everything = tuple(name for names in FIGURES.values() for name in names)
    if metrics is None:
        return everything
    return tuple(check_choice("figure", name, everything) for name in metrics)


def _sort_class(scores: np.ndarray, known: np.ndarray, positive: np.ndarray, num_bins: int) -> _SortedClass:
    images = np.flatnonzero(known)
    images = images[np.argsort(-scores[images], kind="stable")].astype(np.int32)
    falling = -scores[images]
    positives = images[positive[images]]
    points, starts = np.unique(-scores[positives], return_index=True)
    curve = np.empty(2 * len(points) + 2, dtype=np.int32)
    curve[0], curve[-1] = 0, len(images)
    curve[1:-1:2] = np.searchsorted(falling, points, side="left")
    curve[2:-1:2] = np.searchsorted(falling, points, side="right")
    # As `calibration_sums` bins, but from the highest bin to the lowest.
    bins = num_bins - 1 - np.minimum((-falling * num_bins).astype(np.int64), num_bins - 1)
    return _SortedClass(
        images=images,
        curve=curve,
        positives=positives,
        tied=np.append(starts, len(positives)).astype(np.int32),
        bins=np.searchsorted(bins, np.arange(num_bins + 1), side="left").astype(np.int32),
    )


def _run_sums(images: np.ndarray, limits: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of `values * weights[images]` over the runs between `limits`, `(runs, B)`."""
    from scipy.sparse import csr_matrix

    shape = (len(limits) - 1, len(weights))
    return csr_matrix((values[: len(images)], images, limits), shape=shape) @ weights


def _sparse(cells: np.ndarray):
    """A boolean `(N, C)` as a sparse fp64 `(C, N)`."""
    from scipy.sparse import csr_matrix

    return csr_matrix(cells.T, dtype=np.float64)


def _auroc(runs: np.ndarray, tied: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of one class, `(B,)`; see `curve_auroc`. Whole numbers below 2^53 are exact in fp64."""
    if not len(found):
        return np.full(runs.shape[1], np.nan)
    negatives = runs[-1] - found[-1]
    negatives_above = runs[0:-1:2] - (found - tied)
    negatives_at_or_above = runs[1::2] - found
    won_twice = 2 * negatives - negatives_above - negatives_at_or_above
    return _ratio((tied * won_twice).sum(axis=0), 2 * found[-1] * negatives)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where `whole` is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes of `(C, B)` without NaN, NaN where nothing is left."""
    kept = ~np.isnan(values)
    return _ratio(np.where(kept, values, 0).sum(axis=0), kept.sum(axis=0))


def _harmonic_mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(first + second > 0, 2 * first * second / np.where(first + second > 0, first + second, 1), 0.0)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


__all__ = ["CLASS_FIGURES", "FIGURES", "MAP_FIGURES", "WeightedFigures", "choose_figures"]
