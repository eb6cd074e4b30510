# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Batches from a data set that is streamed, on any number of processes (ranks), each image once.

How n ranks share the stream, by the option `uneven`:

| | reads | ends | images |
|---|---|---|---|
| `"pad"` | all, decodes every n-th image | all ranks after equally many equal batches | each once, and stand-ins |
| `"drop"` | likewise | likewise | each at most once, none of an incomplete group |
| `"keep"` | its own shards, if n divides their number; else likewise | each rank on its own | each once |

A stand-in repeats an image where a worker's stream does not end on a multiple of n, at most n - 1 times; all its labels
are unknown (-1), so that neither loss nor metrics see it, and its index is -1. `"drop"` leaves that incomplete group
out.

No rank asks another: with `"pad"` and `"drop"` all see the same stream, cut it into groups of n and take
one image of each. That reads the encoded bytes n times, which is cheap beside decoding on a local disk and not over a
slow network. `"keep"` reads once, but a collective operation in each step (`gather`, the gradients of DDP)
waits for ever, or crashes, once one rank has ended: use it for one rank, or with `accelerator.join_uneven_inputs`.

The loader is already shared among the ranks: do not hand it to `Accelerator.prepare`, which would share it again; move
the batches to the device instead.

Each worker process reads the shards that it has on its own, so there are never more of them than shards. Where a rank's
stream is after k batches is known by counting, so an epoch that was interrupted goes on with the very next batch,
shuffle buffer included. What was delivered before is read again for that, but not decoded.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .decoding import MAX_PIXELS, ImageDecodingError, check_draft_size
from .loading import (
    STREAMING,
    BrokenImage,
    WatchedDataLoader,
    as_item,
    augment,
    check_loading,
    collate_images,
    decode_for,
    mix_seed,
)
from .statistics import label_names_of, multi_hot
from .transforms import ImageTransform


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

UNEVEN_RULES = ("pad", "drop", "keep")


class _Options(NamedTuple):
    seed: int
    rank: int
    world_size: int
    uneven: str
    shuffle_buffer: int
    batch_size: int
    max_pixels: int
    draft_size: tuple[int, int] | None
    on_error: str


class _Delivered(NamedTuple):
    """Stands for an image of a batch that was delivered before a restart."""


class _StreamedImages(IterableDataset):
    """What one worker of one rank decodes."""

    def __init__(
        self, stream: "datasets.IterableDataset", transform: ImageTransform, options: _Options, num_workers: int
    ):
        self.stream = stream
        self.transform = transform
        self.options = options
        self.num_classes = len(label_names_of(stream))
        # In shared memory, where workers that outlive an epoch see them: the epoch, and of each worker the batches that
        # were delivered before a restart and the images that it skipped.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.delivered = torch.zeros(max(1, num_workers), dtype=torch.int64).share_memory_()
        self.skipped = torch.zeros(max(1, num_workers), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        epoch, delivered = int(self.epoch), int(self.delivered[worker]) * self.options.batch_size
        for position, (row, stands_in) in enumerate(self._own_rows()):
            if position < delivered:
                yield _Delivered()
                continue
            number = (position * self.options.world_size + self.options.rank) * num_workers + worker
            yield self._item(row, epoch, worker, number, stands_in)

    def _own_rows(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield this rank's rows, and whether each only stands in for a missing one."""
        rank, world_size = self.options.rank, self.options.world_size
        if self.options.uneven == "keep" or world_size == 1:
            for row in self.stream:
                yield row, False
            return
        rows = iter(self.stream)
        while group := list(islice(rows, world_size)):
            if len(group) == world_size or self.options.uneven == "pad":
                yield group[rank % len(group)], rank >= len(group)

    def _item(self, row: dict[str, Any], epoch: int, worker: int, number: int, stands_in: bool) -> Any:
        options = self.options
        image_id = row["image_id"] if row.get("image_id") is not None else f"number {number} of the stream"
        try:
            image = decode_for(self.transform, row, image_id, options.max_pixels, options.draft_size)
        except ImageDecodingError as error:
            if options.on_error == "raise":
                raise
            if not stands_in:
                self.skipped[worker] += 1
                logger.warning("%s It is skipped.", error)
            return BrokenImage(str(error))
        pixels = augment(self.transform, image, mix_seed(STREAMING, options.seed, epoch, number))
        if stands_in:
            unknown = torch.full((self.num_classes,), -1.0)
            return as_item(pixels) | {"labels": unknown, "index": -1, "image_id": str(image_id)}
        labels = multi_hot(row["labels"], self.num_classes, row.get("unknown_labels") or ())
        return as_item(pixels) | {"labels": torch.from_numpy(labels), "index": number, "image_id": str(image_id)}


class StreamingLoader:
    """Batches of a stream; `build_streaming_loader` builds it.

    Iterating gives `{"pixel_values": (B, 3, H, W), "labels": (B, C), "index": (B,), "image_id": [B texts]}`. The index
    is a number that no other image of the epoch has (with `"keep"`: on this rank), and -1 for a stand-in. The order is
    the same in every run with the same number of ranks and workers. The length is not known.
    """

    def __init__(self, loader: DataLoader, images: _StreamedImages):
        self._loader = loader
        self._images = images
        self._counts = [0] * len(images.delivered)
        self._resume: list[int] | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives."""
        return int(self._images.epoch)

    @property
    def num_workers(self) -> int:
        """Worker processes; fewer than asked for where the stream has fewer shards."""
        return self._loader.num_workers

    @property
    def num_skipped(self) -> int:
        """Images that `on_error="skip"` has left out so far, in all epochs."""
        return int(self._images.skipped.sum())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next iteration.

        Args:
            epoch: >= 0; the epoch of a state that was loaded keeps its place.
        """
        if epoch != self.epoch:
            self._resume = None
        self._images.epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self._counts = self._resume if self._resume is not None else [0] * len(self._counts)
        self._resume = None
        self._images.delivered.copy_(torch.tensor(self._counts))
        if self._images.options.shuffle_buffer:  # otherwise datasets would change the order of the shards all the same
            # Here and not in the workers: they share the stream's epoch, and datasets adds to it without a lock.
            self._images.stream.set_epoch(self.epoch)
        for worker, batch in self._loader:
            if batch is not None:
                self._counts[worker] += 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where the current epoch is: after the last batch that was given. Plain values, for JSON too."""
        counts = self._resume if self._resume is not None else self._counts
        return {"epoch": self.epoch, "batches": list(counts), "settings": self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration give what is left of an epoch.

        Args:
            state: From `state_dict` of the same rank of a loader of the same data and options.

        Raises:
            ValueError: The loader has other options, so the state says nothing about it.
        """
        ours = self._settings()
        for name, value in state["settings"].items():
            if value != ours.get(name):
                raise ValueError(
                    f"the state is of a loader with {name}={value!r}, this one has {name}={ours.get(name)!r}; resume "
                    "with the same options."
                )
        self._images.epoch.fill_(state["epoch"])
        self._resume = list(state["batches"])

    def _settings(self) -> dict[str, Any]:
        names = ("seed", "rank", "world_size", "uneven", "shuffle_buffer", "batch_size")
        settings = {name: getattr(self._images.options, name) for name in names}
        return settings | {"num_workers": self.num_workers, "drop_last": self._loader.drop_last}


def build_streaming_loader(
    dataset: "datasets.IterableDataset",
    transform: ImageTransform,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    uneven: str = "pad",
    shuffle_buffer: int = 0,
    num_workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    max_pixels: int = MAX_PIXELS,
    draft_size: Sequence[int] | None = None,
    on_error: str = "raise",
) -> StreamingLoader:
    """Build a loader over a stream; the module's description says how ranks and workers share it.

    Before each epoch call `loader.set_epoch(epoch)`. All ranks need the same options, `rank` apart.

    Args:
        dataset: From `load_dataset(..., streaming=True)` or `Dataset.to_iterable_dataset(num_shards)`, with the columns
            `image`, `labels` (`List(ClassLabel(names=...))`) and, perhaps, `image_id` and `unknown_labels`. If it was
            shuffled before, it must have been with a seed, or the ranks see different streams.
        transform: As for `ImageDataset`.
        batch_size: Images in a batch of one rank, >= 1. The last batch of each worker may have fewer.
        rank: This process's number, 0 to `world_size` - 1.
        world_size: Number of processes.
        uneven: `"pad"`, `"drop"` or `"keep"`; see the table.
        shuffle_buffer: Images of which the next one is drawn; the order of the shards is shuffled too, by (seed,
            epoch). 0 keeps the order of the data set, of each worker.
        num_workers: Worker processes; 0 loads in this one.
        seed: Of order and augmentation, >= 0.
        drop_last: Leave out the last batch of each worker that is not full.
        pin_memory: Copy batches into page-locked memory, for a faster move to a GPU.
        max_pixels: Largest image accepted; see `decode_image`.
        draft_size: As for `ImageDataset`.
        on_error: `"raise"`, or `"skip"`: a batch shrinks by its broken images, which `num_skipped` counts, and is an
            error if it has no other. Batches that shrink on one of several ranks cannot be gathered.

    Returns:
        The loader. A worker that dies is a `DataLoadingError`.

    Raises:
        TypeError: The data set is not a stream.
        ValueError: An option is out of range, or the stream has no features or no label names.
    """
    import datasets
    from datasets.distributed import split_dataset_by_node

    if not isinstance(dataset, datasets.IterableDataset):
        raise TypeError(
            f"dataset must be a datasets.IterableDataset, got {type(dataset).__name__}; use build_data_loader, or "
            "dataset.to_iterable_dataset(num_shards=...)."
        )
    if batch_size < 1 or num_workers < 0 or shuffle_buffer < 0:
        raise ValueError(
            f"batch_size must be >= 1, num_workers and shuffle_buffer >= 0, got {batch_size}, {num_workers} and "
            f"{shuffle_buffer}."
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1, got rank {rank} of {world_size}.")
    if uneven not in UNEVEN_RULES:
        raise ValueError(f"uneven must be one of {', '.join(UNEVEN_RULES)}, got {uneven!r}.")
    check_loading(seed, on_error)
    if dataset.features is None:
        raise ValueError(
            "the stream does not say what its columns are; give it features: dataset.cast(datasets.Features(...))."
        )
    missing = [name for name in ("image", "labels") if name not in dataset.features]
    if missing:
        raise ValueError(f"the stream has no column {missing[0]!r}, only {', '.join(dataset.features)}; rename one.")
    if getattr(dataset.features["image"], "decode", False):
        dataset = dataset.cast_column("image", datasets.Image(decode=False))
    if shuffle_buffer:
        dataset = dataset.shuffle(seed=seed, buffer_size=shuffle_buffer)
    if uneven == "keep" and world_size > 1:
        dataset = split_dataset_by_node(dataset, rank=rank, world_size=world_size)
    if num_workers > dataset.num_shards:
        logger.warning(
            "A stream of %d shards feeds at most as many workers, so num_workers is %d and not %d; store the data in "
            "more files for more.",
            dataset.num_shards,
            dataset.num_shards,
            num_workers,
        )
        num_workers = dataset.num_shards
    options = _Options(
        seed=seed,
        rank=rank,
        world_size=world_size,
        uneven=uneven,
        shuffle_buffer=shuffle_buffer,
        batch_size=batch_size,
        max_pixels=max_pixels,
        draft_size=check_draft_size(draft_size),
        on_error=on_error,
    )
    images = _StreamedImages(dataset, transform, options, num_workers)
    loader = WatchedDataLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(mix_seed(STREAMING, seed)),
    )
    return StreamingLoader(loader, images)


def _collate(items: Sequence[Any]) -> tuple[int, dict[str, torch.Tensor] | None]:
    """Return the worker, and its batch, or `None` for one that was delivered before a restart."""
    info = get_worker_info()
    worker = 0 if info is None else info.id
    return worker, None if isinstance(items[0], _Delivered) else collate_images(items)


__all__ = ["UNEVEN_RULES", "StreamingLoader", "build_streaming_loader"]
