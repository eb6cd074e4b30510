# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Whether one model is better than another on the same images, or chance would do.

Two tests of each mAP, both paired, because two models find the same images hard:

- Bootstrap: both models are judged on the same resamples of images; the interval is that of the difference. Its
  p-value is twice the smaller share of resamples on either side of zero (Efron and Tibshirani, "An Introduction to the
  Bootstrap", 1993, chapter 16).
- Permutation: if the models were equally good, it would not matter which of the two gave which scores to an image. So
  each image's scores are exchanged with probability 1/2, and the p-value is the share of exchanges that make a
  difference as large as the real one, which counts as one of them, so that p is never 0 (Good, "Permutation, Parametric
  and Bootstrap Tests of Hypotheses", 2005, chapter 3). Average precision sees only the order of a class's images,
  so each model's scores are first replaced by their ranks within the class; else the exchange would mix two scales.

Neither knows of another training seed: what they call real is a difference between these two sets of weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..common.names import name_some
from ..metrics.inputs import check_choice
from ..metrics.long_tail import MAP_FIGURES
from .bootstrap import DEFAULT_RESAMPLES, block_sizes, check_resampling, percentile_interval, weight_blocks
from .score_table import ScoreTable
from .weighted import WeightedFigures


# Differences of fp64 sums that are closer than this are the same.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Difference:
    """One figure of two models, fractions in [0, 1]; None where it is not defined.

    Attributes:
        a: Of the first model.
        b: Of the second.
        difference: `a - b`.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end.
        p_bootstrap: Two-sided p-value of the paired bootstrap.
        p_permutation: Two-sided p-value of the paired permutation test.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_bootstrap: float | None
    p_permutation: float | None


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        a: Name of the first model.
        b: Name of the second.
        num_images: Images that both were judged on.
        resamples: Resamples and permutations drawn, each.
        seed: Of both.
        confidence: Of the intervals.
        differences: Figure -> difference.
    """

    a: str
    b: str
    num_images: int
    resamples: int
    seed: int
    confidence: float
    differences: dict[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)

    def sentence(self, figure: str = "map_total", level: float = 0.05) -> str:
        """Say whether the difference is real: its permutation p-value is below `level`.

        Args:
            figure: One of those compared.
            level: Level of significance, for one figure; four figures at once ask for a quarter of it.

        Raises:
            ValueError: The figure was not compared.
        """
        entry = self.differences[check_choice("figure", figure, tuple(self.differences))]
        name = f"mAP {figure.removeprefix('map_')}"
        if entry.difference is None or entry.low is None or entry.high is None or entry.p_permutation is None:
            return f"{name}: not defined on these images, so {self.a} and {self.b} cannot be compared by it."
        if abs(entry.difference) <= _TOLERANCE:
            said = f"{self.a} and {self.b} are equal"
        else:
            said = f"{self.a} is {100 * abs(entry.difference):.2f} points "
            said += f"{'above' if entry.difference > 0 else 'below'} {self.b}"
        ends = f"{100 * entry.low:+.2f} to {100 * entry.high:+.2f}"
        verdict = "the difference is real" if entry.p_permutation < level else "the difference may well be chance"
        if 1 / (self.resamples + 1) >= level:  # the smallest p-value there is
            verdict = f"{self.resamples} permutations are too few to call a difference real"
        return (
            f"{name}: {said} ({100 * self.confidence:g} % interval of the difference {ends}, paired permutation test p "
            f"= {entry.p_permutation:.4f}, paired bootstrap p = {entry.p_bootstrap:.4f}, {self.num_images} images): "
            f"{verdict} at the level of {level:g}."
        )


def compare(
    a: ScoreTable,
    b: ScoreTable,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
    metrics: Sequence[str] = MAP_FIGURES,
    average_precision_method: str = "area",
    progress: bool = False,
) -> Comparison:
    """Compare two models by mAP on the same images.

    Args:
        a: Scores of the first model.
        b: Scores of the second, of the same images, classes, labels and groups; in any order, aligned by id and name.
        resamples: Bootstrap resamples, and as many permutations, >= 2. No p-value is below `1 / (resamples + 1)`.
        seed: Seed of both.
        confidence: Share of resamples within an interval, in (0, 1).
        metrics: Of `map_total`, `map_head`, `map_medium`, `map_tail`.
        average_precision_method: As in `long_tail_map`.
        progress: Show a progress bar.

    Returns:
        The differences with their intervals and p-values. Resamples in which a figure is not defined are left out.

    Raises:
        ValueError: Images, classes, labels or groups differ, or an option is invalid.
        TypeError: `resamples` is no whole number.
    """
    check_resampling(resamples, confidence)
    metrics = [check_choice("figure to compare", name, MAP_FIGURES) for name in metrics]
    b = align_tables(a, b)
    images = len(a.image_ids)

    def engine(scores: np.ndarray, labels: np.ndarray) -> WeightedFigures:
        return WeightedFigures(
            scores, labels, a.groups, metrics=metrics, average_precision_method=average_precision_method
        )

    first, second = engine(a.scores, a.labels), engine(b.scores, b.labels)
    whole = np.ones((images, 1))
    values = {"a": first.evaluate(whole)[0], "b": second.evaluate(whole)[0]}
    text = f"{a.name} against {b.name}" if progress else None
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for weights in weight_blocks(images, resamples, seed, f"bootstrap of {text}" if text else None):
        figures, others = first.evaluate(weights)[0], second.evaluate(weights)[0]
        for name in metrics:
            resampled[name].append(figures[name] - others[name])
    exchanged = _exchange(a, b, engine, metrics, resamples, seed, f"permutations of {text}" if text else None)

    differences = {}
    for name in metrics:
        difference = float(values["a"][name][0] - values["b"][name][0])
        samples = np.concatenate(resampled[name])
        interval = percentile_interval(difference, samples, confidence)
        differences[name] = Difference(
            a=_or_none(values["a"][name][0]),
            b=_or_none(values["b"][name][0]),
            difference=interval.value,
            low=interval.low,
            high=interval.high,
            p_bootstrap=_bootstrap_p(samples),
            p_permutation=_permutation_p(exchanged[name]),
        )
    return Comparison(a.name, b.name, images, resamples, seed, confidence, differences)


def align_tables(a: ScoreTable, b: ScoreTable) -> ScoreTable:
    """`b` with the images and classes in the order of `a`.

    Raises:
        ValueError: The two differ in images, classes, labels, training counts or bounds; the message says where.
    """
    for what, ours, theirs in (("images", a.image_ids, b.image_ids), ("classes", a.label_names, b.label_names)):
        only = [sorted(set(x) - set(y)) for x, y in ((ours, theirs), (theirs, ours))]
        if only[0] or only[1]:
            raise ValueError(
                f"{a.name} and {b.name} were judged on different {what}: only the first has {name_some(only[0])}, only "
                f"the second has {name_some(only[1])}; judge both on the same data."
            )
    rows, columns = _places(b.image_ids, a.image_ids), _places(b.label_names, a.label_names)
    aligned = replace(
        b,
        image_ids=a.image_ids,
        label_names=a.label_names,
        scores=b.scores[np.ix_(rows, columns)],
        labels=b.labels[np.ix_(rows, columns)],
        class_counts=tuple(b.class_counts[column] for column in columns),
        thresholds=None if b.thresholds is None else tuple(b.thresholds[column] for column in columns),
    )
    if not np.array_equal(a.labels, aligned.labels):
        row, column = np.argwhere(a.labels != aligned.labels)[0]
        raise ValueError(
            f"the label of image {a.image_ids[row]!r} for {a.label_names[column]!r} is {a.labels[row, column]:g} in "
            f"{a.name} but {aligned.labels[row, column]:g} in {b.name}; judge both on the same labels."
        )
    if a.groups != aligned.groups:
        index = next(i for i, (x, y) in enumerate(zip(a.groups, aligned.groups, strict=True)) if x != y)
        raise ValueError(
            f"{a.label_names[index]!r} is {a.groups[index]} in {a.name} but {aligned.groups[index]} in {b.name}; give "
            "both the same class_counts (--class_counts FILE), head_min and tail_max."
        )
    return aligned


def _exchange(a, b, engine, metrics, permutations: int, seed: int, progress: str | None) -> dict[str, np.ndarray]:
    """Differences of the models with exchanged scores, `(1 + permutations,)`, the real ones first."""
    images = len(a.image_ids)
    # Rows 0 to N - 1 are the scores of a, rows N to 2 N - 1 those of b; a weight picks one of an image's two rows.
    both = engine(
        np.concatenate([_ranks(a.scores, a.labels), _ranks(b.scores, b.labels)]), np.concatenate([a.labels, a.labels])
    )
    generator = np.random.default_rng([seed, 1])  # not the stream of the resamples
    found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}

    def add(picked: np.ndarray) -> None:
        figures = both.evaluate(np.concatenate([picked, 1 - picked]))[0]
        others = both.evaluate(np.concatenate([1 - picked, picked]))[0]
        for name in metrics:
            found[name].append(figures[name] - others[name])

    add(np.ones((images, 1)))
    for size in block_sizes(2 * images, permutations, progress):
        add(generator.integers(2, size=(size, images)).T.astype(np.float64))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean rank of each score among the known images of its class, `(N, C)`; 0 where the label is unknown."""
    from scipy.stats import rankdata

    ranks = np.zeros_like(scores)
    for column in range(scores.shape[1]):
        known = labels[:, column] >= 0
        ranks[known, column] = rankdata(scores[known, column])
    return ranks


def _permutation_p(differences: np.ndarray) -> float | None:
    real = differences[0]
    if np.isnan(real):
        return None
    return float((np.abs(differences) >= abs(real) - _TOLERANCE).mean())


def _bootstrap_p(differences: np.ndarray) -> float | None:
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return None
    sides = (defined <= _TOLERANCE).sum(), (defined >= -_TOLERANCE).sum()
    return float(min(1.0, 2 * (min(sides) + 1) / (defined.size + 1)))


def _places(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    place = {name: index for index, name in enumerate(names)}
    return [place[name] for name in wanted]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


__all__ = ["Comparison", "Difference", "align_tables", "compare"]
