# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import prepare_data_loader

from modeling_cssfe.data import build_data_loader, build_train_transform, load_images
from modeling_cssfe.training import epoch_loader
from modeling_cssfe.training.epoch_loader import EpochLoader


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

BATCHES = 4  # of an epoch: 18 images, 5 a batch, the last one of 3


class Order:
    """A shuffled order that tells how far it was asked."""

    def __init__(self):
        self.epoch = 0
        self.drawn: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        for index in torch.randint(18, (18,), generator=generator).tolist():  # some twice, some not at all
            self.drawn.append(index)
            yield index

    def __len__(self) -> int:
        return 18


def accelerator(processes: int = 1, rank: int = 0):
    return SimpleNamespace(num_processes=processes, process_index=rank, device=torch.device("cpu"))


def plain_loader(data, workers: int = 0, drop_last: bool = False):
    transform = build_train_transform(32, [0.5] * 3, [0.5] * 3, augmentation="rand")
    options = {"batch_size": 5, "seed": 3, "num_workers": workers, "drop_last": drop_last}
    return build_data_loader(data, transform, sampler=Order(), **options)


@pytest.fixture(scope="module")
def data(tiny_data):
    return load_images(tiny_data)["train"]


def expected(data, epoch: int) -> list[dict[str, torch.Tensor]]:
    """The batches of an epoch as torch's own loader gives them, one epoch at a time."""
    loader = plain_loader(data)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal(batches, wanted):
    assert len(batches) == len(wanted)
    for batch, other in zip(batches, wanted, strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[key], other[key]) for key in batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_the_batches_that_a_loader_of_its_own_gives(workers, data):
    loader = EpochLoader(plain_loader(data, workers), accelerator(), num_epochs=3)
    assert len(loader) == BATCHES
    for epoch in range(3):
        assert_equal(list(loader.batches(epoch)), expected(data, epoch))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_begin_in_its_middle_be_left_and_be_gone_on_with(workers, data):
    loader = EpochLoader(plain_loader(data, workers), accelerator(), num_epochs=3)
    batches = loader.batches(1, done=2)
    assert_equal([next(batches)], expected(data, 1)[2:3])
    batches.close()
    assert_equal(list(loader.batches(1, done=3)), expected(data, 1)[3:])
    assert_equal(list(loader.batches(2)), expected(data, 2))
    assert_equal(list(loader.batches(0, done=1)), expected(data, 0)[1:])
    assert_equal(list(loader.batches(7)), expected(data, 7))  # more than was planned for


def test_loader_processes_work_on_the_next_epoch_before_this_one_is_done_and_stop_after_the_last(data):
    plain = plain_loader(data, workers=1)
    loader = EpochLoader(plain, accelerator(), num_epochs=2)
    batches = loader.batches(0)
    for _ in range(BATCHES - 1):
        next(batches)
    # One process is asked for two batches ahead: the last one of this epoch and the first one of the next.
    assert len(plain.sampler.sampler.drawn) == 18 + 5
    next(batches)
    list(loader.batches(1))
    assert len(plain.sampler.sampler.drawn) == 2 * 18


def test_the_loader_of_one_epoch_at_a_time_has_drawn_no_more_than_that(data):
    """What the test before this one would see without working ahead."""
    plain = plain_loader(data, workers=1)
    list(plain)
    assert len(plain.sampler.sampler.drawn) == 18


@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_an_epoch_as_accelerate_shares_it(drop_last, data):
    for rank in range(3):
        loader = EpochLoader(plain_loader(data, drop_last=drop_last), accelerator(3, rank), num_epochs=2)
        for epoch in range(2):
            plain = plain_loader(data, drop_last=drop_last)
            reference = prepare_data_loader(
                plain, torch.device("cpu"), num_processes=3, process_index=rank, rng_types=[], put_on_device=False
            )
            reference.set_epoch(epoch)
            wanted = list(reference)
            assert len(loader) == len(wanted) > 0
            assert_equal(list(loader.batches(epoch)), wanted)


def test_on_a_gpu_the_next_batch_is_copied_after_this_one_was_waited_for_and_before_it_is_given(data, monkeypatch):
    events = []

    class Tensor:
        def __init__(self, name):
            self.name = name

        def record_stream(self, stream):
            events.append(f"record {self.name} on {stream.name}")

    class Stream:
        def __init__(self, name="copies"):
            self.name = name

        def wait_stream(self, other):
            events.append(f"{self.name} waits for {other.name}")

    def send(batch, device, non_blocking):
        assert non_blocking
        events.append(f"copy {batch['x'].name}")
        return batch

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("compute"))
    monkeypatch.setattr(epoch_loader, "send_to_device", send)
    for batch in epoch_loader._copied_ahead([{"x": Tensor("a")}, {"x": Tensor("b")}], torch.device("cuda")):
        events.append(f"use {batch['x'].name}")
    waited = "compute waits for copies"
    assert events == [
        *("copy a", waited, "record a on compute", "copy b", "use a"),
        *(waited, "record b on compute", "use b"),
    ]
