# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
r"""Decision thresholds of each class, chosen on validation data: `choose_thresholds`.

A label is decided on where its score is at or above its threshold. Only the places just below a positive's score come
into question: lowering a threshold further, down to the next positive, adds false alarms and nothing else. Each place
is put in the middle (on the logit scale) between that positive and the next lower score. Equal scores go together. For
one threshold of several classes, positives and lower scores are those of all of them.

A class with few positives says little about its best threshold, so its own optimum `t` is mixed with the one threshold
that would serve all classes of its group best (the mean of their F1, precision or recall decides):

    logit(threshold) = w logit(t) + (1 - w) logit(t_group),   w = n / (n + k),   n positives of the class

The group's threshold is mixed with that of all classes by the same formula and the group's number of positives, so a
group without any takes the threshold of all. The weight is that of an empirical-Bayes mean (Efron & Morris, "Data
Analysis Using Stein's Estimator and its Generalizations", JASA 1975): `n` observations against a prior that is worth
`k`. On the logit scale the thresholds of classes differ by offsets; as probabilities, .01 and .001 are neighbours.

Pooling the labels of a group into one question instead would let its most frequent class decide, which cost head
classes several points of F1 on photographs.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..configuration_cssfe import GROUPS
from ..metrics.inputs import check_choice, check_scored_labels
from .score_table import ScoreTable


OBJECTIVES = ("f1", "precision", "recall")

# What the group's threshold is worth, in positives. Measured on photographs (docs/thresholds.md): fitted on 5 to 50 %
# of a validation set, 5 is best or within .2 points of macro F1 of the best, and not worse than no shrinkage.
DEFAULT_SHRINKAGE = 5.0

# Below this a class is called out: the standard error of a recall of .8 is .13 with 10 positives.
FEW_POSITIVES = 10

SMALLEST_SCORE = 1e-12  # scores are kept this far from 0 and 1 where a logit is needed
_MOST_COMMON_CUTS = 2000  # places tried for the one threshold of several classes: evenly spread ones of all there are


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of one class and where it comes from. Figures are of the data it was fitted on, and flatter it.

    Attributes:
        name: Of the class.
        group: `"head"`, `"medium"` or `"tail"`.
        num_positives: Known positives.
        threshold: The decision threshold, a probability.
        own: The class's own optimum, or None without positives.
        group_threshold: What it is mixed with.
        weight: Of `own`, in [0, 1].
        spread: 5th and 95th percentile of `own` over resampled images, or None.
        few_positives: Whether there are fewer than 10 positives.
        reached: Whether the wanted precision or recall is met by `threshold`; None for F1 or without positives.
        f1: F1 at `threshold`, None without positives.
        precision: Precision at `threshold` (0 if nothing is decided on), None without positives.
        recall: Recall at `threshold`, None without positives.
        f1_at_half: F1 at .5, None without positives.
        reason: Why this threshold, in words.
    """

    name: str
    group: str
    num_positives: int
    threshold: float
    own: float | None
    group_threshold: float
    weight: float
    spread: tuple[float, float] | None
    few_positives: bool
    reached: bool | None
    f1: float | None
    precision: float | None
    recall: float | None
    f1_at_half: float | None
    reason: str


@dataclass(frozen=True)
class ThresholdChoice:
    """What `choose_thresholds` found.

    Attributes:
        objective: `"f1"`, `"precision"` or `"recall"`.
        target: The wanted precision or recall, None for F1.
        shrinkage: k, what the group's threshold is worth in positives.
        overall: The one threshold that is best for all classes.
        groups: The one threshold for each group that has classes, mixed with `overall`.
        classes: One entry a class, in the order of the table.
    """

    objective: str
    target: float | None
    shrinkage: float
    overall: float
    groups: dict[str, float]
    classes: tuple[ClassThreshold, ...]

    @property
    def thresholds(self) -> list[float]:
        """The threshold of each class, as `CSSFEConfig.thresholds` takes them."""
        return [entry.threshold for entry in self.classes]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an infinite `shrinkage` becomes the text `"inf"`."""
        return asdict(self) | {
            "shrinkage": self.shrinkage if math.isfinite(self.shrinkage) else "inf",
            "classes": [asdict(entry) for entry in self.classes],
        }


def choose_thresholds(
    table: ScoreTable,
    *,
    objective: str = "f1",
    target: float | None = None,
    shrinkage: float = DEFAULT_SHRINKAGE,
    num_resamples: int = 200,
    seed: int = 0,
) -> ThresholdChoice:
    """Choose the decision threshold of every class on validation data.

    `"f1"` takes the highest F1 (among equals the highest threshold), `"precision"` the lowest threshold that reaches
    the target, `"recall"` the highest one. Where no threshold reaches a precision, the one with the highest precision
    stands in for it and the class is named (`reached` is False and `reason` says so). A class without positives takes
    its group's threshold and is named.

    Args:
        table: Scores and labels of validation images; unknown labels take no part.
        objective: `"f1"`, `"precision"` or `"recall"`.
        target: The wanted precision or recall in (0, 1]; None for `"f1"`.
        shrinkage: k >= 0, what the group's threshold is worth in positives. 0 leaves each class its own optimum,
            infinity gives all classes of a group the same.
        num_resamples: Bootstrap resamples behind `spread`; 0 leaves it out.
        seed: Of the resamples.

    Returns:
        The thresholds with their reasons.

    Raises:
        ValueError: Unknown objective, a target that is missing, not wanted or out of range, a negative or NaN
            shrinkage, a negative number of resamples, or no positive in the whole table.
    """
    check_threshold_options(objective, target, shrinkage, num_resamples)
    data = check_scored_labels(table.scores, table.labels, table.label_names)
    curves = data.map_columns(_Cuts.of)
    if not any(curve.num_positives for curve in curves):
        raise ValueError(f"{table.name}: no class has a positive, so there is nothing to choose thresholds by.")
    groups = np.array(table.groups)
    overall = _common_threshold(table, curves, np.arange(data.num_classes), objective, target)
    common: dict[str, float] = {}
    for group in (name for name in GROUPS if name in groups):
        members = np.flatnonzero(groups == group)
        positives = sum(curves[index].num_positives for index in members)
        own = _common_threshold(table, curves, members, objective, target) if positives else None
        # Always by the default: an infinite shrinkage of classes to their groups leaves the groups apart.
        common[group] = _mix(own, overall, _weight(positives, DEFAULT_SHRINKAGE))

    entries = []
    for index, (name, cuts, group) in enumerate(zip(table.label_names, curves, groups.tolist(), strict=True)):
        weight = _weight(cuts.num_positives, shrinkage)
        own, reachable = cuts.best(objective, target) if cuts.num_positives else (None, False)
        threshold = _mix(own, common[group], weight)
        spread = None
        if num_resamples and cuts.num_positives:
            spread = _spread(cuts, objective, target, num_resamples, np.random.default_rng([seed, index]))
        column = table.labels[:, index]
        figures = _figures(table.scores[column >= 0, index], column[column >= 0] == 1, threshold)
        entry = ClassThreshold(
            name=name,
            group=group,
            num_positives=cuts.num_positives,
            threshold=threshold,
            own=own,
            group_threshold=common[group],
            weight=weight,
            spread=spread,
            few_positives=cuts.num_positives < FEW_POSITIVES,
            reached=None if target is None or own is None else bool(figures[objective] >= target),
            reason=_reason(cuts.num_positives, group, weight, objective, target, reachable),
            **(figures if own is not None else dict.fromkeys(figures)),
        )
        entries.append(entry)
    return ThresholdChoice(objective, target, float(shrinkage), overall, common, tuple(entries))


@dataclass(frozen=True)
class _Cuts:
    """The thresholds that come into question for one class, from the highest to the lowest.

    Attributes:
        thresholds: fp64 `(m,)`, one below each distinct score of a positive.
        hits: Positives at or above each, int64 `(m,)`.
        predicted: Images at or above each, int64 `(m,)`.
        num_positives: Positives in all.
        num_images: Images in all.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    predicted: np.ndarray
    num_positives: int
    num_images: int

    @classmethod
    def of(cls, scores: np.ndarray, positive: np.ndarray) -> "_Cuts":
        """From the scores of the images with a known label."""
        ordered = np.sort(scores.astype(np.float64))
        points, counts = np.unique(scores[positive].astype(np.float64), return_counts=True)
        points, counts = points[::-1], counts[::-1]
        first = np.searchsorted(ordered, points, side="left")
        below = ordered[np.maximum(first - 1, 0)]
        middle = _sigmoid((logit_of(points) + logit_of(below)) / 2)
        # Neighbours can be so close that nothing lies between them: then the positive's score itself is the threshold.
        middle = np.where((below < middle) & (middle <= points), middle, points)
        # Nothing lies below the lowest score. A millionth less lets it pass in single precision as well.
        thresholds = np.where(first == 0, points * (1 - 1e-6), middle)
        return cls(thresholds, np.cumsum(counts), ordered.size - first, int(counts.sum()), ordered.size)

    def best(self, objective: str, target: float | None) -> tuple[float, bool]:
        """The best threshold, and whether it meets the target. There must be a positive."""
        values = _values(self.hits, self.predicted, np.array([self.num_positives]), objective)
        index, reachable = _best(values, objective, target)
        return float(self.thresholds[index]), bool(reachable)


def _values(hits: np.ndarray, predicted: np.ndarray, positives: np.ndarray, objective: str) -> np.ndarray:
    """F1, precision or recall of decisions; the precision of no decision is NaN."""
    if objective == "f1":
        return 2 * hits / (predicted + positives)
    if objective == "recall":
        return hits / positives
    return np.divide(hits, predicted, out=np.full(hits.shape, np.nan), where=predicted > 0)


def _best(values: np.ndarray, objective: str, target: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Index of the best threshold along the last axis, from the highest to the lowest, and if it meets the target."""
    values = np.asarray(np.nan_to_num(values, nan=-1.0))
    if target is None:
        return np.argmax(values, axis=-1), np.ones(values.shape[:-1], dtype=bool)
    meets = values >= target
    reachable = np.asarray(meets.any(axis=-1))
    wanted = np.where(reachable[..., None], meets, values == values.max(axis=-1, keepdims=True))
    if objective == "recall":
        return np.argmax(wanted, axis=-1), reachable
    return values.shape[-1] - 1 - np.argmax(wanted[..., ::-1], axis=-1), reachable


def _common_threshold(
    table: ScoreTable, curves: Sequence["_Cuts"], members: np.ndarray, objective: str, target: float | None
) -> float:
    """The one threshold that is best for the mean over classes; classes without positives have no say."""
    members = np.array([index for index in members if curves[index].num_positives])
    # Between a class's positives may lie another's negatives, so the places are those of all their labels as one.
    labels, scores = table.labels[:, members], table.scores[:, members]
    grid = _Cuts.of(scores[labels >= 0], labels[labels >= 0] == 1).thresholds
    if len(grid) > _MOST_COMMON_CUTS:
        grid = grid[np.linspace(0, len(grid) - 1, _MOST_COMMON_CUTS).round().astype(int)]
    total, classes = np.zeros(len(grid)), np.zeros(len(grid))
    for index in members:
        labels, scores = table.labels[:, index], table.scores[:, index]
        hits, predicted = (
            kept.size - np.searchsorted(np.sort(kept), grid) for kept in (scores[labels == 1], scores[labels >= 0])
        )
        values = _values(hits, predicted, np.array([curves[index].num_positives]), objective)
        total += np.nan_to_num(values)
        classes += ~np.isnan(values)
    # Somewhere in the grid each class decides on something, so the division is defined from there on.
    return float(grid[_best(total / np.maximum(classes, 1), objective, target)[0]])


def _spread(
    cuts: _Cuts, objective: str, target: float | None, num_resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """5th and 95th percentile of the optimum over bootstrap resamples of the images.

    How often each image is drawn only matters through the positives and negatives that each cut adds, so these numbers
    are drawn at once, from a multinomial distribution.
    """
    positives = np.diff(cuts.hits, prepend=0)
    negatives = np.diff(cuts.predicted, prepend=0) - positives
    cells = np.concatenate([positives, negatives, [cuts.num_images - cuts.predicted[-1]]])
    drawn = rng.multinomial(cuts.num_images, cells / cells.sum(), size=num_resamples)
    m = len(positives)
    hits = np.cumsum(drawn[:, :m], axis=1)
    predicted = hits + np.cumsum(drawn[:, m : 2 * m], axis=1)
    kept = hits[:, -1] > 0  # a resample without positives has no optimum
    if not kept.any():
        return float(cuts.thresholds[0]), float(cuts.thresholds[0])
    best, _ = _best(_values(hits[kept], predicted[kept], hits[kept, -1:], objective), objective, target)
    low, high = np.percentile(cuts.thresholds[best], [5, 95])
    return float(low), float(high)


def _figures(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, float]:
    """F1, precision and recall at a threshold, and F1 at .5; 0 / 0 is 0."""

    def f1_of(limit: float) -> tuple[int, int, float]:
        decided = scores >= limit
        hits, yes = int((decided & positive).sum()), int(decided.sum())
        return hits, yes, 2 * hits / max(yes + int(positive.sum()), 1)

    hits, yes, f1 = f1_of(threshold)
    return {
        "f1": f1,
        "precision": hits / max(yes, 1),
        "recall": hits / max(int(positive.sum()), 1),
        "f1_at_half": f1_of(0.5)[2],
    }


def _weight(num_positives: int, shrinkage: float) -> float:
    return 0.0 if num_positives == 0 else num_positives / (num_positives + shrinkage)


def _mix(own: float | None, other: float, weight: float) -> float:
    if own is None or weight == 0:
        return other
    if weight == 1:
        return own
    mixed = weight * logit_of(np.array(own)) + (1 - weight) * logit_of(np.array(other))
    return float(_sigmoid(mixed))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _reason(positives: int, group: str, weight: float, objective: str, target: float | None, reachable: bool) -> str:
    if positives == 0:
        return f"no positives: the {group} group's threshold"
    words = []
    if not reachable:
        words.append(f"no threshold reaches {objective} {target:g}: its highest {objective} instead")
    count = f"{positives} positive{'s' if positives > 1 else ''}"
    if positives < FEW_POSITIVES:
        words.append(f"only {count}, too few to trust: {1 - weight:.0%} the {group} group's threshold")
    elif weight == 1:
        words.append(f"{count}: its own optimum")
    else:
        words.append(f"{count}: {weight:.0%} its own optimum, {1 - weight:.0%} the {group} group's threshold")
    return "; ".join(words)


def logit_of(scores: np.ndarray) -> np.ndarray:
    """Inverse of the sigmoid, for probabilities at least 1e-12 away from 0 and 1; closer ones are moved there."""
    clipped = np.clip(scores, SMALLEST_SCORE, 1 - SMALLEST_SCORE)
    return np.log(clipped) - np.log1p(-clipped)


def check_threshold_options(objective: str, target: float | None, shrinkage: float, num_resamples: int) -> None:
    """Check the options of `choose_thresholds` before images are scored for it.

    Raises:
        ValueError: As `choose_thresholds`.
    """
    check_choice("objective", objective, OBJECTIVES)
    if objective == "f1" and target is not None:
        raise ValueError(f"target is {target} but objective 'f1' has none; leave it out or choose precision or recall.")
    if objective != "f1" and (target is None or not 0 < target <= 1):
        raise ValueError(f"target is {target}; objective {objective!r} needs a wanted {objective} in (0, 1].")
    if not shrinkage >= 0:  # NaN too
        raise ValueError(f"shrinkage is {shrinkage}; give a number of positives >= 0 (inf for the group's alone).")
    if isinstance(num_resamples, bool) or not isinstance(num_resamples, int) or num_resamples < 0:
        raise ValueError(f"num_resamples is {num_resamples!r}; give a whole number >= 0.")


__all__ = ["DEFAULT_SHRINKAGE", "OBJECTIVES", "ClassThreshold", "ThresholdChoice", "choose_thresholds"]
