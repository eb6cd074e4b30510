# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Batches of one epoch after another, from loader processes that do not pause in between.

A torch `DataLoader` runs dry at the end of each epoch: its processes begin the next one only when it is asked for, and
the device waits for the first batches, which counts where an epoch is a thousand images that a GPU takes in a second.
Here one pass of the loader has the batches of all epochs, so its processes work ahead into the next epoch while
the last steps of this one and its evaluation run. Which batches an epoch has does not change by that: image, draw and
epoch travel together in the key of an item.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import send_to_device
from torch.utils.data import BatchSampler, DataLoader, Sampler

from ..data.loading import WatchedDataLoader


class EpochLoader:
    """The batches of a training split, on the device, epoch after epoch.

    Args:
        loader: As `build_data_loader` gives it, with an `EpochSampler`; its data set, batches and processes are taken.
        accelerator: Its processes share each epoch as they share a loader that Accelerate prepared; its device.
        num_epochs: Where to stop working ahead.
    """

    def __init__(self, loader: DataLoader, accelerator: Accelerator, num_epochs: int):
        self.dataset = loader.dataset
        self.num_workers = loader.num_workers
        self.device = accelerator.device
        self._order = _EndlessBatches(loader, accelerator, num_epochs)
        self._loader = WatchedDataLoader(
            loader.dataset,
            batch_sampler=self._order,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            persistent_workers=loader.persistent_workers,
            generator=loader.generator,
        )
        self._batches: Iterator[dict[str, torch.Tensor]] | None = None
        self._next: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Batches of an epoch on this process."""
        return len(self._order)

    def batches(self, epoch: int, done: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of an epoch.

        Args:
            epoch: Counted from 0.
            done: Batches of it that are done already; they are not loaded.
        """
        if self._batches is None or self._next != (epoch, done):
            self._order.first = (epoch, done)
            self._batches = _copied_ahead(self._loader, self.device)
        for number in range(done, len(self)):
            batch = next(self._batches)
            self._next = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            yield batch


class _EndlessBatches(Sampler[list]):
    """Keys of the batches of all epochs from `first`, (epoch, batch), on."""

    def __init__(self, loader: DataLoader, accelerator: Accelerator, num_epochs: int):
        self._sampler: Any = loader.sampler
        self._epoch: Any = BatchSampler(self._sampler, loader.batch_size or 1, loader.drop_last)
        if accelerator.num_processes > 1:
            self._epoch = BatchSamplerShard(self._epoch, accelerator.num_processes, accelerator.process_index)
        self._num_epochs = num_epochs
        self.first = (0, 0)

    def __len__(self) -> int:
        return len(self._epoch)

    def __iter__(self) -> Iterator[list]:
        first, done = self.first
        for epoch in range(first, max(first + 1, self._num_epochs)):
            self._sampler.set_epoch(epoch)
            for number, batch in enumerate(self._epoch):
                if epoch > first or number >= done:
                    yield batch


def _copied_ahead(loader: DataLoader, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a loader's batches on the device; to a GPU the next one is copied while this one is computed with."""
    if device.type != "cuda":
        yield from (send_to_device(batch, device) for batch in loader)
        return
    stream: Any = torch.cuda.Stream(device)

    def copied() -> Iterator[dict[str, torch.Tensor]]:
        for batch in loader:
            with torch.cuda.stream(stream):
                moved = send_to_device(batch, device, non_blocking=True)
            yield moved

    batches = copied()
    ahead = next(batches, None)
    while ahead is not None:
        batch = ahead
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in batch.values():
            tensor.record_stream(current)  # else its memory may be given away while this stream still reads it
        ahead = next(batches, None)
        yield batch


__all__ = ["EpochLoader"]
