# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Data loaders whose batches depend on the seed, the epoch and the position alone.

The random numbers of an image's augmentation are seeded by (seed, epoch, image, how often the epoch drew that image
before). So the same epoch gives the same batches with any number of workers, after a restart, and on any number of
processes, and a rare image that a re-balancing sampler draws ten times is augmented in ten ways. The sampler counts the
draws and hands on (image, draw, epoch), so a worker may load an image of one epoch while another loads one of the next.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .decoded_cache import DecodedCache, build_decoded_cache
from .decoding import MAX_PIXELS, ImageDecodingError, check_draft_size, decode_image, decode_pixels
from .statistics import label_names_of, multi_hot
from .transforms import ImageTransform, accepts_tensors


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

# What a random stream is for, so that two of one seed have nothing in common.
_ORDER, _AUGMENTATION, _WORKERS, STREAMING = 1, 2, 3, 4
ERROR_RULES = ("raise", "skip")
_SECONDS_TO_HEAR_OF_A_DEATH = 5.0


class DataLoadingError(RuntimeError):
    """A process that loads images has died; the message is one line and says how."""


class BrokenImage(NamedTuple):
    """Stands for an image that `on_error="skip"` leaves out, until the batch is put together."""

    message: str


class ItemKey(NamedTuple):
    """What an `EpochSampler` draws: a row, how often the epoch drew it before, and the epoch, from 0."""

    row: int
    draw: int = 0
    epoch: int = 0


class ImageDataset(Dataset):
    """A torch data set over one that `load_images` gave: decoded, transformed, with multi-hot labels.

    An item is `{"pixel_values": (3, H, W) float, "labels": (C,) float32, "index": int}`; labels are 1, 0 or -1
    (unknown), and the index is the row of the data set. Its key is that row, or an `ItemKey`.

    Args:
        dataset: With the columns `image_id`, `image`, `labels` and, perhaps, `unknown_labels`.
        transform: From an RGB Pillow image to a tensor, or to a dictionary of tensors that has `pixel_values` and joins
            the item as it is. What it draws at random must come from torch's generator. One
            with a true attribute `accepts_tensors` is given `(3, height, width)` uint8 instead, which is faster.
        seed: Of the augmentation, >= 0.
        max_pixels: Largest image accepted; see `decode_image`.
        draft_size: (width, height) that large JPEG files may be reduced to while they are decoded; see the table in
            `modeling_cssfe.data.decoding`. For training, `training_draft_size(...)`. `None`, the default, decodes every
            pixel, as the model's image processor gets them in evaluation.
        on_error: What an image that cannot be decoded does: `"raise"` stops with the `ImageDecodingError` that names
            it; `"skip"` gives a `BrokenImage`, warns once, and counts it in `skipped`.
        cache: Decoded images of this data set, instead of decoding.

    Raises:
        ValueError: The data set's labels have no names, an option is out of range, or the cache is of other images.
    """

    def __init__(
        self,
        dataset: "datasets.Dataset",
        transform: ImageTransform,
        *,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        draft_size: Sequence[int] | None = None,
        on_error: str = "raise",
        cache: DecodedCache | None = None,
    ):
        check_loading(seed, on_error)
        if cache is not None and draft_size is not None:
            raise ValueError("draft_size and a decoded cache exclude each other: with the cache nothing is decoded.")
        if cache is not None:
            cache.require(dataset)
        self.dataset = dataset
        self.transform = transform
        self.label_names = label_names_of(dataset)
        self.seed = seed
        self.max_pixels = max_pixels
        self.draft_size = check_draft_size(draft_size)
        self.cache = cache
        self._rows: _Rows | None = None
        # In shared memory: this process sees what its workers left out.
        self._broken = torch.zeros(len(dataset), dtype=torch.uint8).share_memory_() if on_error == "skip" else None

    @property
    def skipped(self) -> list[int]:
        """Rows that were left out so far, by this process and its workers, because they cannot be decoded."""
        return [] if self._broken is None else self._broken.nonzero().flatten().tolist()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}

    def __getitem__(self, key: "int | ItemKey") -> dict[str, Any] | BrokenImage:
        index, draw, epoch = key if isinstance(key, tuple) else ItemKey(key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images.")
        index %= len(self)
        if self._rows is None:
            self._rows = _Rows(self.dataset)
        row = self._rows[index]
        try:
            image = self._image(index, row)
        except ImageDecodingError as error:
            if self._broken is None:
                raise
            if not self._broken[index]:
                logger.warning("%s It is skipped.", error)
            self._broken[index] = 1
            return BrokenImage(str(error))
        pixels = augment(self.transform, image, mix_seed(_AUGMENTATION, self.seed, epoch, index, draw))
        labels = multi_hot(row["labels"], len(self.label_names), row.get("unknown_labels") or ())
        return as_item(pixels) | {"labels": torch.from_numpy(labels), "index": index}

    def _image(self, index: int, row: dict[str, Any]) -> Image.Image | torch.Tensor:
        cached = None if self.cache is None else self.cache.pixels(index)
        if cached is None:
            return decode_for(self.transform, row, row["image_id"], self.max_pixels, self.draft_size)
        if accepts_tensors(self.transform):
            return torch.from_numpy(cached.copy()).permute(2, 0, 1)
        return Image.fromarray(cached)


class _Rows:
    """Rows straight from the Arrow table, which takes a fraction of the time that `dataset[index]` takes."""

    def __init__(self, dataset: "datasets.Dataset"):
        names = [name for name in ("image_id", "image", "labels", "unknown_labels") if name in dataset.column_names]
        self._columns = {name: dataset.data.column(name) for name in names}
        # What select, shuffle and filter leave: the rows of the table that the data set has, in its order.
        self._indices = None if dataset._indices is None else dataset._indices.column(0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index if self._indices is None else self._indices[index].as_py()
        return {name: column[row].as_py() for name, column in self._columns.items()}


def check_loading(seed: int, on_error: str) -> None:
    """Check the options that all loaders share.

    Raises:
        ValueError: The seed is negative, or the error rule unknown.
    """
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    if on_error not in ERROR_RULES:
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")


def decode_for(
    transform: ImageTransform,
    row: dict[str, Any],
    image_id: str,
    max_pixels: int,
    draft_size: tuple[int, int] | None,
) -> Image.Image | torch.Tensor:
    """Decode a row's image to what the transform takes."""
    decode = decode_pixels if accepts_tensors(transform) else decode_image
    return decode(row["image"], image_id=image_id, max_pixels=max_pixels, draft_size=draft_size)


def as_item(transformed: Any) -> dict[str, Any]:
    """What a transform gave, as the beginning of an item: pixels, or a dictionary that has more than these."""
    return transformed if isinstance(transformed, dict) else {"pixel_values": transformed}


def augment(transform: ImageTransform, image: Any, seed: int) -> Any:
    """Transform an image with random numbers of its own, and leave torch's generator as it was."""
    # Only the CPU generator is borrowed: torch.manual_seed would reseed the accelerator's dropout as well.
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return transform(image)
    finally:
        torch.set_rng_state(state)


class WatchedDataLoader(DataLoader):
    """A `DataLoader` that says in one line that a worker process has died, and how."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            try:
                yield from super().__iter__()
            except (OSError, EOFError) as error:
                # What data set and transform raise in a worker begins with "Caught"; what is left is a connection to a
                # worker that is gone. The signal that tells of its death is on its way: torch raises it while we wait.
                if self.num_workers == 0 or str(error).startswith("Caught "):
                    raise
                time.sleep(_SECONDS_TO_HEAR_OF_A_DEATH)
                raise DataLoadingError(_death(f"{type(error).__name__} from its connection")) from error
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if not text.startswith("DataLoader worker (pid"):
                raise
            raise DataLoadingError(_death(text.rstrip("."))) from error


def _death(how: str) -> str:
    return (
        f"a process that loads images has died ({how}); if it was killed, memory has most likely run out: use fewer "
        "workers (num_workers), a smaller batch_size or smaller images."
    )


class EpochSampler(Sampler[ItemKey]):
    """Draws images from another sampler, each with how often the epoch drew it before, and the epoch.

    Args:
        sampler: Yields indices of the data set; its `set_epoch`, if it has one, is called too.
    """

    def __init__(self, sampler: Iterable[int]):
        self.sampler = sampler
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the order and of the augmentation; call it before each epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[ItemKey]:
        epoch, draws = self.epoch, Counter[int]()
        for index in self.sampler:
            yield ItemKey(int(index), draws[int(index)], epoch)
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
        generator = torch.Generator().manual_seed(mix_seed(_ORDER, self.seed, self.epoch))
        return iter(torch.randperm(self.length, generator=generator).tolist())

    def __len__(self) -> int:
        return self.length


def collate_images(items: Sequence[dict[str, Any] | BrokenImage]) -> dict[str, torch.Tensor]:
    """Stack items of an `ImageDataset`; a batch shrinks by its broken images.

    Returns:
        `pixel_values` `(B, 3, H, W)`, `labels` `(B, C)` and `index` `(B,)` int64.

    Raises:
        ImageDecodingError: All images of the batch are broken.
        ValueError: The images have different sizes.
    """
    whole = [item for item in items if not isinstance(item, BrokenImage)]
    if not whole:
        first = next(item.message for item in items if isinstance(item, BrokenImage))
        raise ImageDecodingError(
            f"none of the {len(items)} images of a batch can be decoded; leave them out beforehand with "
            f"verify_images(..., on_error='skip'); the first: {first}"
        )
    shapes = {tuple(item["pixel_values"].shape) for item in whole}
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in sorted(shapes)[:2])
        raise ValueError(f"images of a batch have shapes {listed}; let the transform bring all to one size.")
    return default_collate(whole)


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
    draft_size: Sequence[int] | None = None,
    on_error: str = "raise",
    decoded_cache: str | os.PathLike | DecodedCache | None = None,
) -> DataLoader:
    """Build a loader of `{"pixel_values", "labels", "index"}` batches.

    Before each epoch call `loader.sampler.set_epoch(epoch)` (of a loader that Accelerate prepared, its own
    `set_epoch`). Batches depend on seed and epoch, not on the number of workers. Workers stay alive between epochs; one
    that dies is a `DataLoadingError` (of a loader that Accelerate prepared, torch's own `RuntimeError`).

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
        draft_size: As for `ImageDataset`.
        on_error: As for `ImageDataset`. With `"skip"` a batch shrinks by its broken images, and one that has no other
            is still an error. `loader.dataset.skipped` lists them. Batches that shrink on one of several processes
            cannot be gathered: there, leave broken images out beforehand with `verify_images`.
        decoded_cache: Folder of decoded caches, where `build_decoded_cache` opens or builds one of the images' own
            size, with `num_workers` threads; or a cache that it returned.

    Returns:
        The loader; `loader.dataset` is an `ImageDataset`.

    Raises:
        ImageDecodingError: Building the cache, if an image cannot be decoded and `on_error` is `"raise"`.
        ValueError: An option is out of range, or two exclude each other.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size must be >= 1 and num_workers >= 0, got {batch_size} and {num_workers}.")
    if shuffle and sampler is not None:
        raise ValueError("shuffle and sampler exclude each other; the sampler decides on the order.")
    check_loading(seed, on_error)
    if decoded_cache is not None and not isinstance(decoded_cache, DecodedCache):
        decoded_cache = build_decoded_cache(
            dataset, decoded_cache, num_workers=num_workers, on_error=on_error, max_pixels=max_pixels
        )
    images = ImageDataset(
        dataset,
        transform,
        seed=seed,
        max_pixels=max_pixels,
        draft_size=draft_size,
        on_error=on_error,
        cache=decoded_cache,
    )
    order: Iterable[int] = range(len(images))
    if sampler is not None:
        order = sampler
    elif shuffle:
        order = _ShuffledIndices(len(images), seed)
    return WatchedDataLoader(
        images,
        batch_size=batch_size,
        sampler=EpochSampler(order),
        num_workers=num_workers,
        collate_fn=collate_images,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # Else each epoch would draw the workers' base seed from torch's global generator.
        generator=torch.Generator().manual_seed(mix_seed(_WORKERS, seed)),
    )


def mix_seed(*numbers: int) -> int:
    """Hash whole numbers to a seed; neighbours get unrelated ones."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


__all__ = [
    "BrokenImage",
    "DataLoadingError",
    "EpochSampler",
    "ImageDataset",
    "ItemKey",
    "WatchedDataLoader",
    "build_data_loader",
    "collate_images",
]
