# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class-aware sampling: the classes take turns, whatever their frequency."""

from typing import Any

import numpy as np

from ._base import ResumableSampler, check_whole


class ClassAwareSampler(ResumableSampler):
    """Cycles through the classes in random order and draws a few random images of each.

    A cycle visits every class once in a fresh random order and draws `images_per_class` of its images, which come from
    a shuffled list of the class that is shuffled anew whenever it runs out. The epoch has
    `max(n_c) * classes / length_divisor` draws, rounded down (at least one). Classes that co-occur with others are
    still seen more often: `effective_counts` tells how often, and the distribution-balanced loss weighs against it.

    Source: Wu et al., "Distribution-Balanced Loss", ECCV 2020, released code (3 images, divisor 4); there the lists run
    on from one epoch into the next, here each epoch shuffles its own, so that it can be repeated and resumed. A class
    without images, which that code cannot handle, is passed over.

    When to use: with `db`, `db_focal`, `pg` and `two_way`; to give tail classes as many draws as head classes.

    Args:
        labels: `(images, classes)` multi-hot labels.
        seed: Seed of all orders, >= 0.
        num_replicas: Number of ranks.
        rank: The rank this sampler draws for.
        drop_uneven: Whether to leave out the last indices that not every rank gets one of.
        images_per_class: Images drawn of a class at its turn, >= 1.
        length_divisor: Divides the length of the epoch, > 0.

    Raises:
        ValueError: No class has an image, or an option is out of range.
    """

    def __init__(
        self,
        labels: Any,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        drop_uneven: bool = False,
        images_per_class: int = 3,
        length_divisor: float = 4.0,
    ):
        super().__init__(labels, seed, num_replicas, rank, drop_uneven)
        check_whole("images_per_class", images_per_class, 1)
        if not length_divisor > 0:
            raise ValueError(f"length_divisor must be > 0, got {length_divisor}.")
        if not self.index.class_counts.any():
            raise ValueError("no image has a label, so classes cannot take turns; use the uniform sampler.")
        self.images_per_class = images_per_class
        self.length_divisor = length_divisor

    @property
    def epoch_length(self) -> int:
        """`max(n_c) * classes / length_divisor`, rounded down."""
        return max(1, int(self.index.class_counts.max() * self.index.num_classes / self.length_divisor))

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return a class-aware order."""
        present = np.flatnonzero(self.index.class_counts)
        turns = -(-self.epoch_length // self.images_per_class)
        cycles = -(-turns // len(present))
        class_of_turn = generator.permuted(np.tile(present, (cycles, 1)), axis=1).ravel()[:turns]
        # Turns sorted by class, so that each class's draws are made at once and put in their places.
        turns_by_class = np.argsort(class_of_turn, kind="stable")
        turns_of_class = np.bincount(class_of_turn, minlength=self.index.num_classes)
        images_of_classes = self.index.images_of_classes()
        order = np.empty((turns, self.images_per_class), dtype=np.int64)
        first = 0
        for label in present:
            last = first + turns_of_class[label]
            images = images_of_classes[label]
            draws = (last - first) * self.images_per_class
            shuffles = generator.permuted(np.tile(images, (-(-draws // len(images)), 1)), axis=1)
            order[turns_by_class[first:last]] = shuffles.ravel()[:draws].reshape(-1, self.images_per_class)
            first = last
        return order.ravel()[: self.epoch_length]

    def expected_draws(self) -> np.ndarray:
        """Return each image's share of its classes' draws; classes with images have equally many on average."""
        draws_of_class = self.epoch_length / np.count_nonzero(self.index.class_counts)
        return self.index.combine(draws_of_class / np.maximum(self.index.class_counts, 1), how="sum", without_label=0.0)


__all__ = ["ClassAwareSampler"]
