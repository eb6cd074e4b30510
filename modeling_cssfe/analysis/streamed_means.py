# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Means of classes and groups with bootstrap intervals, of a stream that is seen once.

Images come in batches and are forgotten. For the intervals every image gets a weight of each resample at once, drawn
from a Poisson distribution of mean 1, and only weighted sums are kept: the Poisson bootstrap (Hanley and MacGibbon,
"Creating non-parametric bootstrap samples using Poisson frequencies", Computer Methods and Programs in Biomedicine,
2006). It is the bootstrap over images of `modeling_cssfe.evaluation.bootstrap` but for the size of a resample, which
varies around the number of images, as that number is not known while the stream runs. Memory depends on classes,
figures and resamples alone: 16 bytes for each, so 16 MB for a figure of 1,000 classes and resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..configuration_cssfe import GROUPS
from ..evaluation.bootstrap import DEFAULT_RESAMPLES, Interval, check_resampling, percentile_interval


ALL = "all"


@dataclass(frozen=True)
class Summary:
    """A figure by class and by group.

    Attributes:
        per_class: Class name -> interval.
        groups: `head`, `medium`, `tail` and `all` -> interval of the mean over the group's classes, each class counting
            the same; classes without a value are left out.
        images: Class name -> images that have a value.
    """

    per_class: dict[str, Interval]
    groups: dict[str, Interval]
    images: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "groups": {name: asdict(entry) for name, entry in self.groups.items()},
            "per_class": {name: {**asdict(self.per_class[name]), "images": self.images[name]} for name in self.images},
        }


class StreamedMeans:
    """Mean of each figure and class over the images seen so far, and over resamples of them.

    Args:
        label_names: Class names, length C.
        groups: `head`, `medium` or `tail` of each class, length C.
        resamples: R, >= 2.
        seed: Of the resamples. The same images in the same order give the same resamples, whatever the batches.
        confidence: Share of resamples within an interval, in (0, 1).

    Raises:
        ValueError: An option is out of range, or names and groups differ in length.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        groups: Sequence[str],
        resamples: int = DEFAULT_RESAMPLES,
        seed: int = 0,
        confidence: float = 0.95,
    ):
        check_resampling(resamples, confidence)
        if len(label_names) != len(groups):
            raise ValueError(f"{len(label_names)} label names have {len(groups)} groups; give one group a class.")
        self.label_names, self.groups = list(label_names), list(groups)
        self.resamples, self.confidence = resamples, confidence
        self._random = np.random.default_rng(seed)
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Add a batch of images.

        Args:
            values: Figure -> `(B, C)`, NaN where a class has no value on an image. All figures of these images have to
                come in one call: it draws their weights.

        Raises:
            ValueError: The figures are not `(B, C)` of one B.
        """
        shapes = {array.shape for array in values.values()}
        if len(shapes) != 1 or (shape := shapes.pop())[1:] != (len(self.label_names),):
            raise ValueError(
                f"the figures of a batch have the shapes {[array.shape for array in values.values()]}; give each "
                f"(images, {len(self.label_names)})."
            )
        weights = np.ones((shape[0], 1 + self.resamples))
        # Image after image, so that another batch size draws the same numbers.
        weights[:, 1:] = self._random.poisson(1.0, (shape[0], self.resamples))
        for name, array in values.items():
            defined = ~np.isnan(array)
            sums = weights.T @ np.where(defined, array, 0.0)
            counts = weights.T @ defined
            if name in self._sums:
                self._sums[name] += sums
                self._counts[name] += counts
            else:
                self._sums[name], self._counts[name] = sums, counts

    def means(self, name: str) -> np.ndarray:
        """Means of a figure, fp64 `(1 + R, C)`: of the images themselves, then of each resample; NaN where none."""
        if name not in self._sums:
            return np.full((1 + self.resamples, len(self.label_names)), np.nan)
        sums, counts = self._sums[name], self._counts[name]
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    def counts(self, name: str) -> np.ndarray:
        """Images of each class that have a value, int64 `(C,)`."""
        if name not in self._counts:
            return np.zeros(len(self.label_names), dtype=np.int64)
        return self._counts[name][0].astype(np.int64)

    def summarize(self, name: str) -> Summary:
        """Intervals of a figure."""
        samples = self.means(name)
        return self._summary(samples, self._group_means(samples), self.counts(name))

    def summarize_loss(self, name: str, reference: str, usable: np.ndarray) -> Summary:
        """Intervals of `1 - mean(name) / mean(reference)`: by how much a figure falls short of another.

        A group's is made of the means of both over its classes, so that a class whose reference is small does not
        outweigh the others.

        Args:
            name: The figure.
            reference: What it is compared with.
            usable: bool `(C,)`, classes that take part.
        """
        below, above = (np.where(usable, self.means(figure), np.nan) for figure in (name, reference))
        groups = {
            group: 1 - _ratio(values, self._group_means(above)[group])
            for group, values in self._group_means(below).items()
        }
        return self._summary(1 - _ratio(below, above), groups, np.where(usable, self.counts(name), 0))

    def _group_means(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        members = {group: [own == group for own in self.groups] for group in GROUPS}
        members[ALL] = [True] * len(self.groups)
        return {group: _mean_of_defined(samples[:, chosen]) for group, chosen in members.items()}

    def _summary(self, samples: np.ndarray, groups: Mapping[str, np.ndarray], counts: np.ndarray) -> Summary:
        return Summary(
            per_class={
                label: percentile_interval(column[0], column[1:], self.confidence)
                for label, column in zip(self.label_names, samples.T, strict=True)
            },
            groups={group: percentile_interval(row[0], row[1:], self.confidence) for group, row in groups.items()},
            images=dict(zip(self.label_names, counts.tolist(), strict=True)),
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def _mean_of_defined(samples: np.ndarray) -> np.ndarray:
    """Mean over classes, leaving out NaN; NaN where there is nothing else, without numpy's warning."""
    defined = ~np.isnan(samples)
    number = defined.sum(axis=1)
    total = np.where(defined, samples, 0.0).sum(axis=1)
    return np.divide(total, number, out=np.full(len(samples), np.nan), where=number > 0)


__all__ = ["ALL", "StreamedMeans", "Summary"]
