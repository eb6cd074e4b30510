# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What the samplers share: the labels as an index, one order an epoch, ranks, and a state to resume from."""

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler


def check_whole(name: str, value: Any, low: int) -> int:
    """Return a whole number that is >= `low`, or raise `ValueError`, or `TypeError`, naming it."""
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number >= {low}, got {value!r}.")
    if value < low:
        raise ValueError(f"{name} must be >= {low}, got {value}.")
    return int(value)


class LabelIndex:
    """Which image has which class, from a multi-hot matrix.

    Args:
        labels: `(images, classes)`, array, tensor or nested sequence of any dtype. A positive number says that the
            image has the class; 0, and what marks an unknown label (`-1` or `NaN`), does not.

    Attributes:
        images: Image of each positive label, sorted by class and then by image.
        classes: Class of each positive label, in the same order.
        num_images: Number of images.
        num_classes: Number of classes.
        class_counts: `(classes,)`, images that have the class.

    Raises:
        ValueError: The matrix is not two-dimensional, or empty, or its rows differ in length.
    """

    def __init__(self, labels: Any):
        if isinstance(labels, torch.Tensor):
            labels = labels.detach().cpu()
            labels = labels.float().numpy() if labels.dtype == torch.bfloat16 else labels.numpy()
        try:
            matrix = np.asarray(labels)
        except ValueError as error:
            raise ValueError("labels have rows of different lengths; pass one column a class in every row.") from error
        if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "biuf":
            raise ValueError(
                f"labels must be a multi-hot matrix of numbers, (images, classes), got shape {matrix.shape} and dtype "
                f"{matrix.dtype}; pass one row an image and one column a class."
            )
        self.classes, self.images = np.nonzero((matrix > 0).T)
        self.num_images, self.num_classes = matrix.shape
        self.class_counts = np.bincount(self.classes, minlength=self.num_classes)

    def images_of_classes(self) -> list[np.ndarray]:
        """Return the images that have each class, as one array a class."""
        return np.split(self.images, np.cumsum(self.class_counts)[:-1])

    def count_classes(self, draws: np.ndarray) -> np.ndarray:
        """Return how often each class is seen if image i is drawn `draws[i]` times, `(classes,)`."""
        return np.bincount(self.classes, weights=draws[self.images], minlength=self.num_classes)

    def combine(self, class_values: np.ndarray, how: str, without_label: float) -> np.ndarray:
        """Return one number an image from those of its classes.

        Args:
            class_values: `(classes,)`, >= 0.
            how: `"max"`, `"mean"` or `"sum"` over the classes that the image has.
            without_label: For images that have none.

        Returns:
            `(images,)` in fp64.
        """
        values = class_values[self.classes].astype(np.float64)
        combined: np.ndarray
        number = np.bincount(self.images, minlength=self.num_images)
        if how == "max":
            combined = np.zeros(self.num_images, dtype=np.float64)
            np.maximum.at(combined, self.images, values)
        else:
            combined = np.bincount(self.images, weights=values, minlength=self.num_images)
            if how == "mean":
                combined = combined / np.maximum(number, 1)
        return np.where(number > 0, combined, without_label)


class ResumableSampler(Sampler):
    """Base of all samplers here: an order that depends on seed and epoch alone, shared among ranks, resumable.

    `set_epoch(n)` chooses the order of an epoch; without it every pass has the order of epoch 0. The numbers come from
    an own generator seeded by (seed, epoch): no global generator is read or changed.

    With several ranks, rank r takes every `num_replicas`-th index of the one-rank order, beginning with the r-th, so
    the ranks together draw exactly that order. Where its length is no multiple of `num_replicas`, the first ranks draw
    one index more; `drop_uneven` leaves that last part out for all.

    A sampler needs random access to the data set: see `resample_stream` for data that is streamed.

    Args:
        labels: `(images, classes)` multi-hot labels, see `LabelIndex`.
        seed: Seed of all orders, >= 0.
        num_replicas: Number of ranks.
        rank: The rank this sampler draws for.
        drop_uneven: Whether to leave out the last indices that not every rank gets one of.

    Raises:
        ValueError: The labels are no matrix, or seed, rank or number of ranks is out of range.
        TypeError: Seed, rank or number of ranks is no whole number.
    """

    def __init__(self, labels: Any, seed: int = 0, num_replicas: int = 1, rank: int = 0, drop_uneven: bool = False):
        super().__init__()
        check_whole("seed", seed, 0)
        check_whole("num_replicas", num_replicas, 1)
        if check_whole("rank", rank, 0) >= num_replicas:
            raise ValueError(f"expected 0 <= rank < num_replicas, got rank {rank} and num_replicas {num_replicas}.")
        self.index = LabelIndex(labels)
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.drop_uneven = drop_uneven
        self.epoch = 0
        self._position = 0  # of what this rank draws in the epoch, how much has been handed out
        self._resume_at = 0

    @property
    def epoch_length(self) -> int:
        """Length of the one-rank order, the same in every epoch."""
        raise NotImplementedError

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return a one-rank order, `(epoch_length, ...)`; subclasses draw here."""
        raise NotImplementedError

    def expected_draws(self) -> np.ndarray:
        """Return how often each image is drawn in an epoch on average, over all ranks; `(images,)`."""
        raise NotImplementedError

    def order(self, epoch: int | None = None) -> np.ndarray:
        """Return the one-rank order of an epoch.

        Args:
            epoch: The epoch; by default that of `set_epoch`.

        Returns:
            `(epoch_length,)` indices of images (pairs of them for two branches).
        """
        return self.draw(np.random.default_rng([self.seed, self.epoch if epoch is None else epoch]))

    def effective_counts(self, epoch: int | None = None) -> np.ndarray:
        """Tell how often each class is seen in an epoch, over all ranks, co-occurring classes included.

        Args:
            epoch: Count in this epoch's order. By default, the average over all orders.

        Returns:
            `(classes,)` in fp64.
        """
        if epoch is None:
            return self.index.count_classes(self.expected_draws())
        return self.index.count_classes(np.bincount(self.order(epoch).ravel(), minlength=self.index.num_images))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next, from its beginning.

        Args:
            epoch: Counted from 0.

        Raises:
            ValueError: It is negative.
            TypeError: It is no whole number.
        """
        check_whole("epoch", epoch, 0)
        if epoch != self.epoch:
            self._position = self._resume_at = 0
        self.epoch = epoch

    def state_dict(self, position: int | None = None) -> dict[str, int]:
        """Return what `load_state_dict` needs to go on from here.

        Args:
            position: How many of this rank's items have been trained on in the epoch. By default what was handed out,
                which is more if a data loader reads ahead of training.

        Returns:
            Plain numbers; the same state serves every rank.
        """
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._position if position is None else position,
            "num_replicas": self.num_replicas,
            "num_images": self.index.num_images,
            "epoch_length": self.epoch_length,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a state was taken: the next pass yields what was left of that epoch.

        Args:
            state: From `state_dict` of a sampler of the same kind, labels, seed and number of ranks. `set_epoch` with
                the state's own epoch keeps the place; another epoch starts at its beginning.

        Raises:
            ValueError: The state is that of another sampler.
        """
        mine = self.state_dict()
        for key in ("seed", "num_replicas", "num_images", "epoch_length"):
            if state.get(key) != mine[key]:
                raise ValueError(
                    f"the sampler's state has {key} {state.get(key)}, this sampler has {mine[key]}; "
                    "resume with the data, seed and number of ranks of the interrupted run."
                )
        self.epoch = state["epoch"]
        self._position = self._resume_at = state["position"]

    def __iter__(self) -> Iterator:
        items = self._rank_items()
        start, self._resume_at = self._resume_at, 0
        self._position = start
        for item in items[start:]:
            self._position += 1
            yield item

    def __len__(self) -> int:
        if self.drop_uneven:
            return self.epoch_length // self.num_replicas
        return math.ceil((self.epoch_length - self.rank) / self.num_replicas)

    def _rank_order(self) -> np.ndarray:
        order = self.order()
        if self.drop_uneven:
            order = order[: len(order) // self.num_replicas * self.num_replicas]
        return order[self.rank :: self.num_replicas]

    def _rank_items(self) -> list:
        return self._rank_order().tolist()


__all__ = ["LabelIndex", "ResumableSampler", "check_whole"]
