# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Two-branch batches: at every step one batch drawn uniformly and one drawn re-balanced."""

import math
from typing import Any

import numpy as np

from ._base import ResumableSampler, check_whole


class TwoBranchBatchSampler(ResumableSampler):
    """A batch sampler whose every batch is a uniform half followed by a re-balanced half of the same size.

    Pass it as `batch_sampler` to a data loader and split each batch in the middle: the first half belongs to the branch
    that learns from the natural distribution, the second to the re-balanced one.

    An epoch has as many pairs as there are images, so the uniform branch sees each image once. The re-balanced branch
    goes on into further orders of its own sampler where one is shorter than that, and is cut where it is longer. With
    several ranks, rank r takes every `num_replicas`-th pair, beginning with the r-th.

    Source: the sampling of Zhou et al., "BBN: Bilateral-Branch Network", CVPR 2020, and, for several labels an image,
    of Guo and Wang, "Long-Tailed Multi-Label Visual Recognition by Collaborative Training on Uniform and Re-Balanced
    Samplings", CVPR 2021.

    The default is the re-balancing of the second; that of BBN, which draws a class in proportion to 1 / n, is
    `rebalanced="inverse_frequency"` with `rebalanced_options={"power": 2}`.

    When to use: models of two branches. Each step costs two batches.

    Args:
        labels: `(images, classes)` multi-hot labels.
        seed: Seed of all orders, >= 0.
        num_replicas: Number of ranks.
        rank: The rank this sampler draws for.
        drop_uneven: Whether to leave out the last pairs that not every rank gets one of.
        batch_size: Images of each branch in a batch, which then has twice as many.
        rebalanced: Name of the sampler of the second branch.
        rebalanced_options: Its options.
        drop_last: Whether to leave out a last batch that is smaller.

    Raises:
        ValueError: Unknown sampler, or an option is out of range.
    """

    def __init__(
        self,
        labels: Any,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        drop_uneven: bool = False,
        batch_size: int = 32,
        rebalanced: str = "class_aware",
        rebalanced_options: dict[str, Any] | None = None,
        drop_last: bool = False,
    ):
        super().__init__(labels, seed, num_replicas, rank, drop_uneven)
        check_whole("batch_size", batch_size, 1)
        if rebalanced == "two_branch":
            raise ValueError("rebalanced is 'two_branch'; choose a sampler of single images for the second branch.")
        # The registry lists this class, so it can only be asked once all modules are there.
        from .registry import build_sampler

        self.rebalanced = build_sampler(rebalanced, labels=labels, seed=seed, **(rebalanced_options or {}))
        self.batch_size = batch_size
        self.drop_last = drop_last

    @property
    def epoch_length(self) -> int:
        """The number of pairs, which is that of images."""
        return self.index.num_images

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return `(images, 2)`: a permutation of the images beside as many re-balanced draws."""
        uniform = generator.permutation(self.index.num_images)
        orders = [self.rebalanced.draw(generator)]
        while sum(map(len, orders)) < len(uniform):
            orders.append(self.rebalanced.draw(generator))
        return np.stack((uniform, np.concatenate(orders)[: len(uniform)]), axis=1)

    def expected_draws(self) -> np.ndarray:
        """Return one for the uniform branch, and the second branch's share of as many draws."""
        share = self.index.num_images / self.rebalanced.epoch_length
        return 1 + self.rebalanced.expected_draws() * share

    def __len__(self) -> int:
        pairs = super().__len__()
        return pairs // self.batch_size if self.drop_last else math.ceil(pairs / self.batch_size)

    def _rank_items(self) -> list:
        pairs = self._rank_order()
        batches = [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
        # Transposed, so that the uniform half comes first.
        return [batch.T.ravel().tolist() for batch in batches[: len(self)]]


__all__ = ["TwoBranchBatchSampler"]
