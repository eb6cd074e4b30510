# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Data loaders whose batches depend on the seed, the epoch and the position alone.

The random numbers of an image's augmentation are seeded by (seed, epoch, image, how often the epoch drew that image
before). So the same epoch gives the same batches with any number of workers, after a restart, and on any number of
processes, and a rare image that a re-balancing sampler draws ten times is augmented in ten ways. The sampler counts the
draws and hands on (image, draw); the epoch lies in shared memory, where workers that outlive an epoch see it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .decoding import MAX_PIXELS, decode_image
from .statistics import label_names_of, multi_hot
from .transforms import ImageTransform


if TYPE_CHECKING:
    import datasets


# What a random stream is for, so that two of one seed have nothing in common.
_ORDER, _AUGMENTATION, _WORKERS = 1, 2, 3


class ImageDataset(Dataset):
    """A torch data set over one that `load_images` gave: decoded, transformed, with multi-hot labels.

    An item is `{"pixel_values": (3, H, W) float, "labels": (C,) float32, "index": int}`; labels are 1, 0 or -1
    (unknown), and the index is the row of the data set.

    Args:
        dataset: With the columns `image_id`, `image`, `labels` and, perhaps, `unknown_labels`.
        transform: From an RGB Pillow image to a tensor. What it draws at random must come from torch's generator.
        seed: Of the augmentation, >= 0.
        max_pixels: Largest image accepted; see `decode_image`.

    Raises:
        ValueError: The data set's labels have no names, or the seed is negative.
    """

    def __init__(
        self, dataset: "datasets.Dataset", transform: ImageTransform, *, seed: int = 0, max_pixels: int = MAX_PIXELS
    ):
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}.")
        self.dataset = dataset
        self.transform = transform
        self.label_names = label_names_of(dataset)
        self.seed = seed
        self.max_pixels = max_pixels
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also for worker processes that already run."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images.")
        index %= len(self)
        row = self.dataset[index]
        image = decode_image(row["image"], image_id=row["image_id"], max_pixels=self.max_pixels)
        # Only the CPU generator is borrowed: torch.manual_seed would reseed the accelerator's dropout as well.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(_mix(_AUGMENTATION, self.seed, self.epoch, index, draw))
        try:
            pixels = self.transform(image)
        finally:
            torch.set_rng_state(state)
        labels = multi_hot(row["labels"], len(self.label_names), row.get("unknown_labels") or ())
        return {"pixel_values": pixels, "labels": torch.from_numpy(labels), "index": index}


class EpochSampler(Sampler[tuple[int, int]]):
    """Draws (image, how often the epoch drew it before) from another sampler, and tells the epoch to everyone.

    Args:
        sampler: Yields indices of the data set; its `set_epoch`, if it has one, is called too.
        dataset: The data set whose epoch goes along.
    """

    def __init__(self, sampler: Iterable[int], dataset: ImageDataset):
        self.sampler = sampler
        self.dataset = dataset

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the order and of the augmentation; call it before each epoch."""
        self.dataset.set_epoch(epoch)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draws: Counter[int] = Counter()
        for index in self.sampler:
            yield int(index), draws[int(index)]
            draws[int(index)] += 1

    def __len__(self) -> int:
        if not isinstance(self.sampler, Sized):
            raise TypeError(f"the sampler {type(self.sampler).__name__} has no length; give it one.")
        return len(self.sampler)


class _ShuffledIndices:
    """A new order each epoch, by seed and epoch alone."""

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_mix(_ORDER, self.seed, self.epoch))
        return iter(torch.randperm(self.length, generator=generator).tolist())

    def __len__(self) -> int:
        return self.length


def collate_images(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack items of an `ImageDataset`.

    Returns:
        `pixel_values` `(B, 3, H, W)`, `labels` `(B, C)` and `index` `(B,)` int64.

    Raises:
        ValueError: The images have different sizes.
    """
    shapes = {tuple(item["pixel_values"].shape) for item in items}
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in sorted(shapes)[:2])
        raise ValueError(f"images of a batch have shapes {listed}; let the transform bring all to one size.")
    return default_collate(list(items))


def build_data_loader(
    dataset: "datasets.Dataset",
    transform: ImageTransform,
    *,
    batch_size: int,
    shuffle: bool = False,
    sampler: Iterable[int] | None = None,
    num_workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> DataLoader:
    """Build a loader of `{"pixel_values", "labels", "index"}` batches.

    Before each epoch call `loader.sampler.set_epoch(epoch)` (of a loader that Accelerate prepared, its own
    `set_epoch`). Batches depend on seed and epoch, not on the number of workers. Workers stay alive between epochs.

    Args:
        dataset: As `load_images` gives it.
        transform: `build_train_transform(...)`, or `EvaluationTransform(processor)`.
        batch_size: Images in a batch, >= 1.
        shuffle: A new random order each epoch.
        sampler: Indices in the order to load, such as a sampler of `modeling_cssfe.samplers`; instead of `shuffle`.
        num_workers: Worker processes; 0 loads in this one.
        seed: Of order and augmentation, >= 0.
        drop_last: Leave out a last batch that is not full.
        pin_memory: Copy batches into page-locked memory, for a faster move to a GPU.
        max_pixels: Largest image accepted; see `decode_image`.

    Returns:
        The loader; `loader.dataset` is an `ImageDataset`.

    Raises:
        ValueError: An option is out of range, or both `shuffle` and `sampler` are given.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size must be >= 1 and num_workers >= 0, got {batch_size} and {num_workers}.")
    if shuffle and sampler is not None:
        raise ValueError("shuffle and sampler exclude each other; the sampler decides on the order.")
    images = ImageDataset(dataset, transform, seed=seed, max_pixels=max_pixels)
    order: Iterable[int] = range(len(images))
    if sampler is not None:
        order = sampler
    elif shuffle:
        order = _ShuffledIndices(len(images), seed)
    return DataLoader(
        images,
        batch_size=batch_size,
        sampler=EpochSampler(order, images),
        num_workers=num_workers,
        collate_fn=collate_images,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # Else each epoch would draw the workers' base seed from torch's global generator.
        generator=torch.Generator().manual_seed(_mix(_WORKERS, seed)),
    )


def _mix(*numbers: int) -> int:
    """Hash whole numbers to a seed; neighbours get unrelated ones."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


__all__ = ["EpochSampler", "ImageDataset", "build_data_loader", "collate_images"]
