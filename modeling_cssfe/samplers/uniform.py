# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Uniform sampling: every image once an epoch, in random order."""

import numpy as np

from ._base import ResumableSampler


class UniformSampler(ResumableSampler):
    """Draws every image once an epoch, shuffled.

    When to use: by default; losses that correct for the training frequencies themselves (`rw`, `cb_focal`, `asl`,
    `logit_adjustment`) expect it.

    Args:
        labels: `(images, classes)` multi-hot labels.
        seed: Seed of all orders, >= 0.
        num_replicas: Number of ranks.
        rank: The rank this sampler draws for.
        drop_uneven: Whether to leave out the last indices that not every rank gets one of.
    """

    @property
    def epoch_length(self) -> int:
        """The number of images."""
        return self.index.num_images

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return a permutation of the images."""
        return generator.permutation(self.index.num_images)

    def expected_draws(self) -> np.ndarray:
        """Return one for each image."""
        return np.ones(self.index.num_images)


__all__ = ["UniformSampler"]
