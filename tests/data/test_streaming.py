# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import collections
import io
import json
import logging
import multiprocessing
import os
import signal
from datetime import timedelta

import datasets
import pytest
import torch
from PIL import Image

from modeling_cssfe.data import ImageDecodingError
from modeling_cssfe.data.loading import DataLoadingError
from modeling_cssfe.data.readers.records import image_features
from modeling_cssfe.data.streaming import build_streaming_loader


# A hint about processors, which these small workers do not need.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

NAMES = ["ant", "bee", "cat"]
COUNT = 23  # prime: no number of ranks, shards or workers divides it


def encoded(number: int) -> bytes:
    """An image whose red says which one it is."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def show(image) -> torch.Tensor:
    """A transform that gives the image's number and a random number."""
    return torch.cat([torch.tensor([float(image.getpixel((0, 0))[0])]), torch.rand(2)]).reshape(3, 1, 1)


def stream(shards: int = 5, count: int = COUNT, broken: tuple[int, ...] = ()) -> datasets.IterableDataset:
    rows = {
        "image_id": [f"i{n}" for n in range(count)],
        "image": [{"bytes": b"junk" if n in broken else encoded(n), "path": None} for n in range(count)],
        "labels": [[n % 3] for n in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=image_features(NAMES)).to_iterable_dataset(num_shards=shards)


def load(data=None, epoch: int = 0, **options) -> list[dict]:
    loader = build_streaming_loader(stream() if data is None else data, show, batch_size=2, **options)
    loader.set_epoch(epoch)
    return list(loader)


def numbers(batches) -> list[int]:
    """The images of the batches, without stand-ins."""
    return [
        int(pixels[0, 0, 0])
        for batch in batches
        for pixels, index in zip(batch["pixel_values"], batch["index"], strict=True)
        if index >= 0
    ]


SHARING = [
    (world_size, num_workers, shuffle_buffer)
    for world_size, num_workers, shuffle_buffer in (
        (1, 0, 0),
        (1, 2, 6),
        (2, 0, 6),
        (2, 2, 0),
        (3, 0, 0),
        (3, 2, 6),
        (5, 0, 6),
        (5, 3, 0),
    )
]


@pytest.mark.parametrize("uneven", ["pad", "keep"])
@pytest.mark.parametrize(("world_size", "num_workers", "shuffle_buffer"), SHARING)
def test_ranks_and_workers_together_give_every_image_exactly_once(uneven, world_size, num_workers, shuffle_buffer):
    options = {"num_workers": num_workers, "shuffle_buffer": shuffle_buffer, "uneven": uneven, "epoch": 2}
    ranks = [load(rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    seen = collections.Counter(number for rank in ranks for number in numbers(rank))
    assert seen == collections.Counter(range(COUNT))
    for batch in (batch for rank in ranks for batch in rank):
        real = batch["index"] >= 0
        labels = torch.nn.functional.one_hot(batch["pixel_values"][:, 0, 0, 0].long() % 3, 3).float()
        assert torch.equal(batch["labels"][real], labels[real])
        assert (batch["labels"][~real] == -1).all()
    indices = [index for rank in ranks for batch in rank for index in batch["index"].tolist() if index >= 0]
    assert len(set(indices)) == COUNT
    if uneven == "pad":
        shapes = [[tuple(batch["pixel_values"].shape) for batch in rank] for rank in ranks]
        assert all(shape == shapes[0] for shape in shapes)
        stand_ins = sum(len(batch["index"]) for rank in ranks for batch in rank) - COUNT
        assert stand_ins <= (world_size - 1) * max(1, num_workers)


@pytest.mark.parametrize(("world_size", "num_workers", "shuffle_buffer"), SHARING)
def test_dropping_keeps_ranks_even_and_leaves_out_less_than_a_group_of_each_worker(
    world_size, num_workers, shuffle_buffer
):
    options = {"num_workers": num_workers, "shuffle_buffer": shuffle_buffer, "uneven": "drop"}
    ranks = [load(rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    seen = collections.Counter(number for rank in ranks for number in numbers(rank))
    assert set(seen.values()) == {1}
    assert COUNT - len(seen) <= (world_size - 1) * max(1, num_workers)
    assert len({tuple(len(batch["index"]) for batch in rank) for rank in ranks}) == 1


def test_fewer_images_than_ranks_still_come_once_each():
    ranks = [load(stream(1, 2), rank=rank, world_size=5) for rank in range(5)]
    assert sorted(number for rank in ranks for number in numbers(rank)) == [0, 1]
    assert [len(rank) for rank in ranks] == [1] * 5


def test_shards_are_shared_out_whole_where_their_number_allows():
    # Six shards of 4, 4, 4, 4, 4 and 3 images for two ranks and "keep": 12 and 11 images, each of three shards.
    ranks = [load(stream(6), rank=rank, world_size=2, uneven="keep") for rank in range(2)]
    assert sorted(len(numbers(rank)) for rank in ranks) == [11, 12]
    assert sorted(numbers(ranks[0]) + numbers(ranks[1])) == list(range(COUNT))


def in_step(rank: int, folder: str, results) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    seen = []
    for batch in build_streaming_loader(stream(), show, batch_size=2, rank=rank, world_size=2):
        parts = [torch.empty_like(batch["index"]) for _ in range(2)]
        torch.distributed.all_gather(parts, batch["index"])  # hangs or fails if the ranks are not in step
        seen += [index for part in parts for index in part.tolist() if index >= 0]
    results.put(sorted(seen))
    torch.distributed.destroy_process_group()


def test_two_real_processes_gather_every_batch_to_the_end(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=in_step, args=(rank, str(tmp_path), results)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    gathered = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(60)
    assert gathered == [list(range(COUNT))] * 2  # without workers, the index is the place in the stream


def test_the_buffer_shuffles_by_seed_and_epoch_and_otherwise_the_order_stays():
    assert numbers(load()) == numbers(load(epoch=3)) == list(range(COUNT))
    orders = [tuple(numbers(load(shuffle_buffer=8, seed=s, epoch=e))) for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(COUNT)) for order in orders)


def test_augmentation_changes_with_the_epoch_and_repeats_with_it():
    def random(epoch):
        return torch.cat([batch["pixel_values"][:, 1:, 0, 0] for batch in load(epoch=epoch)])

    assert torch.equal(random(1), random(1))
    assert not torch.isclose(random(1), random(2)).any()
    assert len(random(1).flatten().unique()) == 2 * COUNT


def test_living_workers_follow_the_epoch():
    loader = build_streaming_loader(stream(), show, batch_size=2, num_workers=2, shuffle_buffer=8)
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        fresh = load(num_workers=2, shuffle_buffer=8, epoch=epoch)
        for batch, expected in zip(loader, fresh, strict=True):
            assert torch.equal(batch["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("given", [0, 1, 5, 99])
def test_an_interrupted_epoch_goes_on_with_the_very_next_batch(num_workers, given):
    options = {"num_workers": num_workers, "shuffle_buffer": 8, "rank": 1, "world_size": 2}
    whole = load(epoch=4, **options)
    first = build_streaming_loader(stream(), show, batch_size=2, **options)
    first.set_epoch(4)
    for _, _ in zip(range(given), first, strict=False):
        pass
    state = json.loads(json.dumps(first.state_dict()))

    second = build_streaming_loader(stream(), show, batch_size=2, **options)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert second.epoch == 4
    second.set_epoch(4)  # as a training loop does
    rest = list(second)
    assert len(rest) == max(0, len(whole) - given)
    for batch, expected in zip(rest, whole[given:], strict=True):
        assert batch["image_id"] == expected["image_id"]
        for key in ("pixel_values", "labels", "index"):
            assert torch.equal(batch[key], expected[key])
    second.set_epoch(5)
    assert len(list(second)) == len(whole)


def test_the_workers_agree_on_the_epoch_every_time():
    # Workers that each set the shared epoch of the stream would now and then add theirs to another's.
    whole = [batch["pixel_values"].tolist() for batch in load(epoch=6, num_workers=3, shuffle_buffer=8)]
    for _ in range(8):
        again = load(epoch=6, num_workers=3, shuffle_buffer=8)
        assert [batch["pixel_values"].tolist() for batch in again] == whole


def test_a_state_of_other_options_is_refused():
    state = build_streaming_loader(stream(), show, batch_size=2, seed=1).state_dict()
    with pytest.raises(ValueError, match="the state is of a loader with seed=1, this one has seed=0"):
        build_streaming_loader(stream(), show, batch_size=2).load_state_dict(state)


def test_more_workers_than_shards_are_not_started(caplog):
    with caplog.at_level(logging.WARNING):
        loader = build_streaming_loader(stream(2), show, batch_size=2, num_workers=4)
    assert loader.num_workers == 2
    assert "2 shards" in caplog.text
    assert sorted(numbers(loader)) == list(range(COUNT))


def test_parquet_files_stream_with_their_label_names_and_images_that_datasets_would_decode(tmp_path):
    for shard in range(3):
        rows = {
            "image": [{"bytes": encoded(n), "path": None} for n in range(shard, COUNT, 3)],
            "labels": [[n % 3] for n in range(shard, COUNT, 3)],
        }
        features = datasets.Features(
            {"image": datasets.Image(), "labels": datasets.List(datasets.ClassLabel(names=NAMES))}
        )
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{shard}.parquet")
    files = sorted(str(path) for path in tmp_path.glob("*.parquet"))
    data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    ranks = [load(data, rank=rank, world_size=2, num_workers=2, shuffle_buffer=5) for rank in range(2)]
    assert sorted(number for rank in ranks for number in numbers(rank)) == list(range(COUNT))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_stops_the_stream_or_is_counted_and_left_out(num_workers, caplog):
    with pytest.raises(ImageDecodingError, match="image 'i7' cannot be decoded") as caught:
        load(stream(broken=(7, 9)), num_workers=num_workers)
    assert "\n" not in str(caught.value)
    loader = build_streaming_loader(stream(broken=(7, 9)), show, batch_size=4, num_workers=num_workers, on_error="skip")
    assert sorted(numbers(loader)) == [n for n in range(COUNT) if n not in (7, 9)]
    assert loader.num_skipped == 2


class Killed:
    """A transform whose worker process is killed at the image number 9, as by a lack of memory."""

    def __call__(self, image) -> torch.Tensor:
        if image.getpixel((0, 0))[0] == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return show(image)


def test_a_killed_worker_is_one_line_and_no_hang():
    loader = build_streaming_loader(stream(), Killed(), batch_size=2, num_workers=2)
    with pytest.raises(DataLoadingError, match=r"a process that loads images has died \(.*num_workers") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"shuffle_buffer": -1}, "shuffle_buffer >= 0"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to world_size - 1, got rank 2 of 2"),
        ({"uneven": "even"}, "uneven must be one of pad, drop, keep, got 'even'"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"on_error": "ignore"}, "'raise' or 'skip', got 'ignore'"),
        ({"draft_size": (0, 4)}, "draft_size must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_streaming_loader(stream(), show, **({"batch_size": 1} | options))


def test_what_is_no_stream_or_has_no_names_is_refused():
    with pytest.raises(TypeError, match=r"got Dataset; use build_data_loader, or dataset.to_iterable_dataset"):
        build_streaming_loader(datasets.Dataset.from_dict({"a": [1]}), show, batch_size=1)
    untyped = datasets.IterableDataset.from_generator(lambda: iter([{"image": None}]))
    with pytest.raises(ValueError, match="give it features"):
        build_streaming_loader(untyped, show, batch_size=1)
    with pytest.raises(ValueError, match="no column 'labels', only image_id, image"):
        build_streaming_loader(stream().remove_columns("labels"), show, batch_size=1)
