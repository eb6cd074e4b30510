# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`long_tail_map`: every figure of a long-tailed multi-label evaluation in one dictionary.

The groups and their bounds are those of Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in
Long-Tailed Datasets", ECCV 2020, section 4, with head read as "100 or more" (see `assign_groups`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..configuration_cssfe import GROUPS, assign_groups
from .average_precision import AVERAGE_PRECISION_METHODS, class_curve, curve_average_precision
from .calibration import DEFAULT_BINS, calibration_sums, class_errors, error_of_sums
from .inputs import ScoredLabels, check_choice, check_positive_integer, check_scored_labels, mean_or_none
from .ranking import coverage_and_ranking_loss, curve_auroc
from .threshold_metrics import (
    DEFAULT_THRESHOLD,
    DecisionCounts,
    check_decision,
    count_decisions,
    f1_averages,
    overall_and_per_class,
)


MAP_FIGURES = ("map_total", *(f"map_{group}" for group in GROUPS))


def long_tail_map(
    scores: Any,
    references: Any,
    class_counts: Sequence[int] | np.ndarray,
    head_min: int = 100,
    tail_max: int = 20,
    *,
    label_names: Sequence[str] | None = None,
    threshold: float | Sequence[float] | np.ndarray = DEFAULT_THRESHOLD,
    top_k: int | None = None,
    average_precision_method: str = "area",
    num_bins: int = DEFAULT_BINS,
    num_workers: int | None = 1,
) -> dict[str, Any]:
    """Evaluate a multi-label classifier over all classes and over head, medium and tail.

    All figures are fractions in [0, 1] (papers print them times 100), except `coverage_error`, a number of classes.

    A class without positives among the known labels has no average precision. It is left out of every mean over
    classes, its own figures are None, `absent_classes` names it, and one warning is given. Where nothing is left to
    average (a group without any evaluated class) the figure is None, `null` in JSON: never 0 and never NaN.

    Args:
        scores: `(N, C)` array, torch tensor or nested lists, sigmoid probabilities of each class. Other finite scores
            (logits) are ranked as well, with a warning: calibration is then left out (None) and the threshold is
            compared with the scores as they are.
        references: `(N, C)`, multi-hot of any integer, bool or float dtype. -1 or NaN is unknown and takes no part.
        class_counts: Training images of each class, length C; they decide the groups.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.
        label_names: C distinct names, the keys of `per_class`; `LABEL_0`, `LABEL_1`, ... without them.
        threshold: A number or one a class; a score at or above it is a yes.
        top_k: The number of yeses an image gets, in place of a threshold.
        average_precision_method: `"area"` or `"11-point"`, see `average_precision`.
        num_bins: Bins of the calibration error.
        num_workers: Threads; `None` takes one a core. The figures do not depend on it.

    Returns:
        A dictionary of plain Python values:

        - `map_total`, `map_head`, `map_medium`, `map_tail`: mean average precision;
        - `per_class`: name -> average precision;
        - `f1_micro`, `f1_macro`, `f1_weighted`, `f1_samples` (per image), see `f1_scores`;
        - `op`, `or`, `of1`, `cp`, `cr`, `cf1`, see `precision_recall_scores`;
        - `auroc_macro`, `coverage_error`, `ranking_loss`;
        - `ece` over all labels, `ece_macro` the mean of the classes' own;
        - `groups`: group -> `classes`, `num_classes`, `num_evaluated`, `absent_classes`, `map`, `f1_macro`,
          `auroc_macro`, `ece_macro`;
        - `class_table`: one dictionary a class, in order: `name`, `group`, `class_count`, `num_known`,
          `num_positives`, `average_precision`, `auroc`, `precision`, `recall`, `f1`, `ece`;
        - `absent_classes`: names of the classes without positives;
        - `num_images`, `num_classes`, `num_unknown` labels;
        - `protocol`: the switches behind the figures.

    Raises:
        ValueError: Shapes, lengths, scores, labels, names, bounds or switches are invalid; the message names the value.
        TypeError: An input is of the wrong kind.

    Examples:
        >>> from modeling_cssfe.metrics import long_tail_map
        >>> scores = [[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.6, 0.6, 0.2], [0.7, 0.1, 0.4]]
        >>> references = [[1, 0, 0], [1, 1, 1], [0, 1, 0], [1, -1, 0]]
        >>> result = long_tail_map(scores, references, [775, 64, 4], label_names=["person", "tvmonitor", "cow"])
        >>> [result[name] for name in ("map_head", "map_medium", "map_tail")]
        [1.0, 1.0, 0.5]
        >>> round(result["map_total"], 4)
        0.8333
        >>> result["groups"]["tail"]["classes"]
        ['cow']
    """
    check_choice("average_precision_method", average_precision_method, AVERAGE_PRECISION_METHODS)
    check_positive_integer("num_bins", num_bins)
    data = check_scored_labels(scores, references, label_names)
    counts, groups = check_groups(class_counts, data.num_classes, head_min, tail_max)
    thresholds, top_k = check_decision(threshold, top_k, data.num_classes)

    decisions = count_decisions(data, threshold, top_k, num_workers)
    figures = _evaluate_classes(data, decisions, average_precision_method, num_bins, num_workers)
    coverage, ranking = coverage_and_ranking_loss(data, num_workers)
    absent = np.flatnonzero(figures.num_positives == 0)
    group_figures = {group: _summarise(data, figures, [g == group for g in groups]) for group in GROUPS}
    _warn(data, absent, group_figures, top_k)

    one_threshold = bool((thresholds == thresholds[0]).all())
    return {
        "map_total": mean_or_none(figures.average_precision),
        **{f"map_{group}": group_figures[group]["map"] for group in GROUPS},
        "per_class": dict(zip(data.label_names, _plain(figures.average_precision), strict=True)),
        **f1_averages(decisions),
        **overall_and_per_class(decisions),
        "auroc_macro": mean_or_none(figures.auroc),
        "coverage_error": coverage,
        "ranking_loss": ranking,
        "ece": figures.pooled_ece,
        "ece_macro": mean_or_none(figures.ece),
        "groups": group_figures,
        "class_table": _class_table(data, figures, counts, groups),
        "absent_classes": [data.label_names[index] for index in absent],
        "num_images": data.num_images,
        "num_classes": data.num_classes,
        "num_unknown": data.num_unknown,
        "protocol": {
            "average_precision_method": average_precision_method,
            "ties": "grouped",
            "head_min": int(head_min),
            "tail_max": int(tail_max),
            "decision": "threshold" if top_k is None else "top_k",
            "threshold": None if top_k is not None else float(thresholds[0]) if one_threshold else thresholds.tolist(),
            "top_k": None if top_k is None else int(top_k),
            "num_bins": int(num_bins),
            "absent_classes": "left out",
            "unknown_labels": "left out",
            "scores_are_probabilities": data.are_probabilities,
        },
    }


def check_groups(class_counts: Any, num_classes: int, head_min: int, tail_max: int) -> tuple[list[int], list[str]]:
    """Check the training counts and the bounds, and group the classes.

    Args:
        class_counts: Training images of each class, any sequence of whole numbers.
        num_classes: C, the length that the counts must have.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.

    Returns:
        The counts as ints, and the group of each class.

    Raises:
        ValueError: The length differs, a count is no whole number of 0 or more, or the bounds overlap.
        TypeError: The counts are no sequence of numbers, or a bound is no whole number.
    """
    try:
        values = np.asarray(class_counts, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"class_counts must be a list of whole numbers, got {class_counts!r}.") from error
    if values.shape != (num_classes,):
        raise ValueError(
            f"class_counts has shape {values.shape} but there are {num_classes} classes; "
            "pass the number of training images of each class."
        )
    for index, value in enumerate(values.tolist()):
        if not (value >= 0 and value.is_integer()):
            raise ValueError(f"class_counts[{index}] is {value:g}; expected a whole number of 0 or more.")
    counts = [int(value) for value in values]
    bounds = check_positive_integer("head_min", head_min), check_positive_integer("tail_max", tail_max)
    return counts, assign_groups(counts, *bounds)


@dataclass(frozen=True)
class _ClassFigures:
    """Figures of each class, `(C,)`, NaN where there is none; `pooled_ece` is of all labels together."""

    average_precision: np.ndarray
    auroc: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    ece: np.ndarray
    pooled_ece: float | None
    num_known: np.ndarray
    num_positives: np.ndarray


def _evaluate_classes(
    data: ScoredLabels, decisions: DecisionCounts, method: str, num_bins: int, num_workers: int | None
) -> _ClassFigures:
    calibrate = data.are_probabilities

    def evaluate_class(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float, int, int, np.ndarray | None]:
        curve = class_curve(scores, positive)
        return (
            curve_average_precision(curve, method),
            curve_auroc(curve) if curve.num_positives else float("nan"),
            curve.num_images,
            curve.num_positives,
            calibration_sums(scores, positive, num_bins) if calibrate else None,
        )

    # One pass sorts each class once for both of its rankings.
    rows = data.map_columns(evaluate_class, num_workers)
    sums = [row[4] for row in rows if row[4] is not None]
    pooled = error_of_sums(np.sum(sums, axis=0)) if sums else float("nan")
    return _ClassFigures(
        average_precision=np.array([row[0] for row in rows]),
        auroc=np.array([row[1] for row in rows]),
        precision=decisions.precision,
        recall=decisions.recall,
        f1=decisions.f1,
        ece=class_errors(sums) if sums else np.full(data.num_classes, np.nan),
        pooled_ece=None if np.isnan(pooled) else pooled,
        num_known=np.array([row[2] for row in rows]),
        num_positives=np.array([row[3] for row in rows]),
    )


def _summarise(data: ScoredLabels, figures: _ClassFigures, members: list[bool]) -> dict[str, Any]:
    """The figures of one group."""
    mask = np.array(members)
    evaluated = mask & (figures.num_positives > 0)
    names = np.array(data.label_names, dtype=object)
    return {
        "classes": names[mask].tolist(),
        "num_classes": int(mask.sum()),
        "num_evaluated": int(evaluated.sum()),
        "absent_classes": names[mask & ~evaluated].tolist(),
        "map": mean_or_none(figures.average_precision[mask]),
        "f1_macro": mean_or_none(figures.f1[mask]),
        "auroc_macro": mean_or_none(figures.auroc[mask]),
        "ece_macro": mean_or_none(figures.ece[mask]),
    }


def _class_table(
    data: ScoredLabels, figures: _ClassFigures, counts: list[int], groups: list[str]
) -> list[dict[str, Any]]:
    columns = {
        "name": list(data.label_names),
        "group": groups,
        "class_count": counts,
        "num_known": figures.num_known.tolist(),
        "num_positives": figures.num_positives.tolist(),
        "average_precision": _plain(figures.average_precision),
        "auroc": _plain(figures.auroc),
        "precision": _plain(figures.precision),
        "recall": _plain(figures.recall),
        "f1": _plain(figures.f1),
        "ece": _plain(figures.ece),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(values: np.ndarray) -> list[float | None]:
    """Python floats with None for NaN, which strict JSON does not have."""
    return [None if np.isnan(value) else float(value) for value in values]


def _warn(data: ScoredLabels, absent: np.ndarray, groups: dict[str, dict[str, Any]], top_k: int | None) -> None:
    if absent.size:
        names = [data.label_names[index] for index in absent[:10]]
        more = f" and {absent.size - 10} more" if absent.size > 10 else ""
        empty = [name for name, group in groups.items() if group["num_classes"] and not group["num_evaluated"]]
        lost = f" Nothing is left to average in: {', '.join(empty)}." if empty else ""
        warnings.warn(
            f"{absent.size} of {data.num_classes} classes have no positive image and are left out of all means: "
            f"{', '.join(names)}{more}.{lost}",
            stacklevel=3,
        )
    if not data.are_probabilities:
        compared = "" if top_k is not None else " and the threshold is compared with them as they are"
        warnings.warn(
            f"scores reach from {data.lowest:g} to {data.highest:g} and are no probabilities: calibration is left out"
            f"{compared}; apply a sigmoid to logits first.",
            stacklevel=3,
        )
