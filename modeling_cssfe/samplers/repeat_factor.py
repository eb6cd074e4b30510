# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Repeat-factor sampling: images of rare classes are repeated within an epoch."""

from typing import Any

import numpy as np

from ._base import ResumableSampler


def class_repeat_factors(class_counts: Any, num_samples: int, threshold: float | None = None) -> np.ndarray:
    """Repeat factor of each class, `max(1, sqrt(threshold / f_c))`, `f_c` the share of images that have it.

    Source: Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019; in the version on
    arXiv it is appendix B.2.

    Args:
        class_counts: Images of each class; a class without any counts as seen once, but then repeats nothing.
        num_samples: Images in all.
        threshold: Share of images below which a class is repeated, in `[0, 1]`. By default `100 / num_samples`: classes
            with fewer than 100 images, which is what .001 means on the 100,000 images of LVIS v1, and is where head
            classes begin. (.001 itself would repeat nothing in a set of less than 1,000 images.)

    Returns:
        `(classes,)` factors >= 1 in fp64.

    Raises:
        ValueError: The threshold is out of range.
    """
    if threshold is None:
        threshold = min(1.0, 100 / num_samples)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}.")
    frequency = np.maximum(np.asarray(class_counts, dtype=np.float64), 1) / num_samples
    return np.maximum(1.0, np.sqrt(threshold / frequency))


class RepeatFactorSampler(ResumableSampler):
    """Draws each image as often as the largest repeat factor among its classes says.

    The whole part of a factor is drawn always, the fraction in so many of the epochs. Fractions are drawn
    systematically, so that every epoch has the same length, `epoch_length`; rounding that length to a whole number
    scales the fractions by at most half a draw in all.

    When to use: mild re-balancing that keeps every image in every epoch.

    Args:
        labels: `(images, classes)` multi-hot labels. An image without any is drawn once.
        seed: Seed of all orders, >= 0.
        num_replicas: Number of ranks.
        rank: The rank this sampler draws for.
        drop_uneven: Whether to leave out the last indices that not every rank gets one of.
        threshold: Share of images below which a class is repeated, see `class_repeat_factors`.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        labels: Any,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        drop_uneven: bool = False,
        threshold: float | None = None,
    ):
        super().__init__(labels, seed, num_replicas, rank, drop_uneven)
        factors = class_repeat_factors(self.index.class_counts, self.index.num_images, threshold)
        self.repeat_factors = self.index.combine(factors, how="max", without_label=1.0)
        self._whole = np.floor(self.repeat_factors).astype(np.int64)
        fractions = self.repeat_factors - self._whole
        self._extra = round(fractions.sum())
        self._fractions = fractions * (self._extra / fractions.sum()) if self._extra else 0 * fractions

    @property
    def epoch_length(self) -> int:
        """The sum of all repeat factors, rounded."""
        return int(self._whole.sum()) + self._extra

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return a shuffled order with every image repeated by its factor."""
        # Systematic sampling: fractions laid end to end in random order, a draw wherever the line crosses u + k.
        shuffled = generator.permutation(self.index.num_images)
        line = np.cumsum(self._fractions[shuffled])
        line[-1] = self._extra  # what rounding in the sum has left
        crossed = np.floor(line + generator.random()).astype(np.int64)
        repeats = self._whole.copy()
        repeats[shuffled] += np.diff(crossed, prepend=0)
        return generator.permutation(np.repeat(np.arange(self.index.num_images), repeats))

    def expected_draws(self) -> np.ndarray:
        """Return the repeat factors, their fractions scaled to a whole number in all."""
        return self._whole + self._fractions


__all__ = ["RepeatFactorSampler", "class_repeat_factors"]
