# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Inverse-frequency sampling: images are drawn with a probability that grows as their classes get rarer."""

from typing import Any

import numpy as np

from ._base import ResumableSampler, check_whole


COMBINATIONS = ("max", "mean", "sum")


class InverseFrequencySampler(ResumableSampler):
    """Draws images with replacement, with probability proportional to `n_c^(-power)` of their classes.

    When to use: as the plain re-sampling baseline. Strong: an image of the rarest class is drawn as much more often as
    its class is rarer; `power=0.5` is the usual softer form.

    Args:
        labels: `(images, classes)` multi-hot labels. An image without any counts as one of a class that all have.
        seed: Seed of all orders, >= 0.
        num_replicas: Number of ranks.
        rank: The rank this sampler draws for.
        drop_uneven: Whether to leave out the last indices that not every rank gets one of.
        power: Exponent, >= 0; 0 draws uniformly with replacement.
        combine: What an image takes of its classes' weights: `"max"`, that of its rarest class, as the repeat factor
            does; `"mean"` or `"sum"`.
        num_samples: Draws in an epoch; by default the number of images.

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
        power: float = 1.0,
        combine: str = "max",
        num_samples: int | None = None,
    ):
        super().__init__(labels, seed, num_replicas, rank, drop_uneven)
        if not power >= 0:
            raise ValueError(f"power must be >= 0, got {power}.")
        if combine not in COMBINATIONS:
            raise ValueError(f"unknown combine {combine!r}; choose one of {', '.join(COMBINATIONS)}.")
        if num_samples is not None:
            check_whole("num_samples", num_samples, 1)
        weights = self.index.combine(
            np.maximum(self.index.class_counts, 1) ** -float(power),
            how=combine,
            without_label=self.index.num_images ** -float(power),
        )
        self.probabilities = weights / weights.sum()
        self.num_samples = num_samples

    @property
    def epoch_length(self) -> int:
        """The number of draws."""
        return self.index.num_images if self.num_samples is None else self.num_samples

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return independent draws."""
        return generator.choice(self.index.num_images, size=self.epoch_length, p=self.probabilities)

    def expected_draws(self) -> np.ndarray:
        """Return each image's probability times the number of draws."""
        return self.probabilities * self.epoch_length


__all__ = ["InverseFrequencySampler"]
