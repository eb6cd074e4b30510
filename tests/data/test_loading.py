# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import io
import logging
import os
import pickle
import signal

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cssfe.data import ImageDataset, ImageDecodingError, build_data_loader, build_train_transform
from modeling_cssfe.data.loading import DataLoadingError
from modeling_cssfe.data.readers.records import image_features


# A hint about processors, which these small workers do not need.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

NAMES = ["ant", "bee", "cat"]
LABELS = [[0], [1, 2], [], [2], [0, 1], [1], [2], [0]]
UNKNOWN = [[1], [], [0, 1, 2], [], [], [], [], []]


def noise(image) -> torch.Tensor:
    """A transform that shows its random numbers, and of which image they are."""
    return torch.cat([torch.tensor(list(image.getpixel((0, 0)))).float(), torch.rand(3)]).reshape(6, 1, 1)


@pytest.fixture
def images(image_bytes) -> datasets.Dataset:
    rows = {
        "image_id": [f"i{n}" for n in range(8)],
        "image": [{"bytes": image_bytes(n), "path": None} for n in range(8)],
        "labels": LABELS,
        "unknown_labels": UNKNOWN,
    }
    return datasets.Dataset.from_dict(rows, features=image_features(NAMES, with_unknown=True))


def epoch(loader, number: int = 0) -> dict[str, torch.Tensor]:
    """All batches of an epoch, joined."""
    loader.sampler.set_epoch(number)
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


def test_batches_hold_pixels_labels_and_indices(images):
    loader = build_data_loader(images, noise, batch_size=3)
    batches = list(loader)
    assert [len(batch["index"]) for batch in batches] == [3, 3, 2]
    assert batches[0]["labels"].tolist() == [[1, -1, 0], [0, 1, 1], [-1, -1, -1]]
    assert batches[0]["labels"].dtype == torch.float32
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(8))
    assert len(build_data_loader(images, noise, batch_size=3, drop_last=True)) == 2


def test_a_selection_is_numbered_from_zero(images):
    loaded = epoch(build_data_loader(images.select([4, 1]), noise, batch_size=2))
    assert loaded["index"].tolist() == [0, 1]
    assert loaded["labels"].tolist() == [[1, 1, 0], [0, 1, 1]]


def test_rows_are_those_of_the_data_set_however_it_was_made(images, tmp_path):
    images.to_parquet(tmp_path / "images.parquet")
    on_disk = datasets.load_dataset("parquet", data_files=str(tmp_path / "images.parquet"), split="train")
    variants = {
        "selected": images.select([5, 0, 7]),
        "a range": images.select(range(2, 6)),
        "shuffled": images.shuffle(seed=1),
        "filtered": images.filter(lambda labels: 2 in labels, input_columns="labels"),
        "joined": datasets.concatenate_datasets([images.select([3, 1]), images]),
        "on disk, twice selected": on_disk.select([6, 2, 4, 1]).select([3, 0]),
        "formatted": images.with_format("torch").select([1, 2]),
    }
    for variant in variants.values():
        dataset = ImageDataset(variant, noise)
        plain = variant.with_format(None)
        for index in range(len(plain)):
            pixels = Image.open(io.BytesIO(plain[index]["image"]["bytes"])).convert("RGB").getpixel((0, 0))
            item = dataset[index]
            assert item["pixel_values"][:3].flatten().tolist() == list(pixels)
            assert (item["labels"] == 1).nonzero().flatten().tolist() == sorted(plain[index]["labels"])
            assert (item["labels"] == -1).nonzero().flatten().tolist() == sorted(plain[index]["unknown_labels"])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers, images):
    here = build_data_loader(images, noise, batch_size=2, shuffle=True, seed=3)
    there = build_data_loader(images, noise, batch_size=2, shuffle=True, seed=3, num_workers=workers)
    for number in (0, 1, 5):  # the same, living workers
        assert same(epoch(here, number), epoch(there, number))


def test_a_restart_gives_the_epoch_again_and_another_epoch_or_seed_others(images):
    def load(seed, number):
        return epoch(build_data_loader(images, noise, batch_size=4, shuffle=True, seed=seed), number)

    first = load(seed=0, number=2)
    assert same(first, load(seed=0, number=2))
    for other in (load(seed=0, number=3), load(seed=1, number=2)):
        assert not torch.equal(first["index"], other["index"])
        order, other_order = first["index"].argsort(), other["index"].argsort()
        assert not torch.isclose(first["pixel_values"][order][:, 3:], other["pixel_values"][other_order][:, 3:]).any()


def test_shuffling_changes_the_order_but_not_what_an_image_looks_like(images):
    ordered = epoch(build_data_loader(images, noise, batch_size=4), 1)
    shuffled = epoch(build_data_loader(images, noise, batch_size=4, shuffle=True), 1)
    assert sorted(shuffled["index"].tolist()) == list(range(8))
    assert torch.equal(shuffled["pixel_values"], ordered["pixel_values"][shuffled["index"]])


class Repeating:
    """Draws some images several times, as re-balancing samplers do."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter([5, 5, 0, 5, 0, self.epoch])

    def __len__(self) -> int:
        return 6


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_drawn_again_is_augmented_anew(workers, images):
    loader = build_data_loader(images, noise, batch_size=2, sampler=Repeating(), num_workers=workers)
    assert len(loader) == 3
    loaded = epoch(loader, 7)
    assert loaded["index"].tolist() == [5, 5, 0, 5, 0, 7]  # the sampler was told of the epoch
    pixels, random = loaded["pixel_values"][:, :3], loaded["pixel_values"][:, 3:, 0, 0]
    assert torch.equal(pixels[0], pixels[1])
    assert len({tuple(row.tolist()) for row in random}) == 6
    assert same(loaded, epoch(loader, 7))


def test_loading_leaves_the_global_generator_alone(images):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epoch(build_data_loader(images, noise, batch_size=4, shuffle=True))
    assert torch.equal(torch.rand(3), expected)


def test_a_real_transform_gives_the_same_batches_in_workers(images):
    transform = build_train_transform(16, (0.5,) * 3, (0.5,) * 3, augmentation="trivial")
    loaders = [build_data_loader(images, transform, batch_size=4, num_workers=workers) for workers in (0, 2)]
    first, second = (epoch(loader) for loader in loaders)
    assert first["pixel_values"].shape == (8, 3, 16, 16)
    assert same(first, second)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_from_workers_too(workers, images):
    rows = [images[0], {**images[1], "image": {"bytes": b"junk", "path": None}}]
    broken = datasets.Dataset.from_list(rows, features=images.features)
    with pytest.raises(ImageDecodingError) as caught:
        list(build_data_loader(broken, noise, batch_size=2, num_workers=workers))
    assert str(caught.value).startswith("image 'i1' cannot be decoded")
    assert "\n" not in str(caught.value)


def with_broken(images: datasets.Dataset, broken: tuple[int, ...]) -> datasets.Dataset:
    rows = [row | {"image": {"bytes": b"junk", "path": None}} if n in broken else row for n, row in enumerate(images)]
    return datasets.Dataset.from_list(rows, features=images.features)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_can_be_skipped_and_is_counted_and_reported(workers, images, caplog):
    data = with_broken(images, (1, 6))
    loader = build_data_loader(data, noise, batch_size=3, num_workers=workers, on_error="skip")
    with caplog.at_level(logging.WARNING):
        for number in (0, 1):
            loader.sampler.set_epoch(number)
            assert [batch["index"].tolist() for batch in loader] == [[0, 2], [3, 4, 5], [7]]
            assert loader.dataset.skipped == [1, 6]
    if not workers:  # a worker writes to its own log
        assert caplog.text.count("image 'i1' cannot be decoded") == 1
    plain = epoch(build_data_loader(images, noise, batch_size=3), 1)
    kept = torch.tensor([0, 2, 3, 4, 5, 7])
    assert torch.equal(epoch(loader, 1)["pixel_values"], plain["pixel_values"][kept])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_broken_images_alone_is_an_error_even_when_skipping(workers, images):
    data = with_broken(images, (2, 3))
    with pytest.raises(ImageDecodingError, match=r"none of the 2 images of a batch .* the first: image 'i2'") as caught:
        list(build_data_loader(data, noise, batch_size=2, num_workers=workers, on_error="skip"))
    assert "\n" not in str(caught.value)


class Killed:
    """A transform whose worker process is killed at one image, known by its red, as by a lack of memory."""

    def __init__(self, red: int):
        self.red = red

    def __call__(self, image) -> torch.Tensor:
        if image.getpixel((0, 0))[0] == self.red:
            os.kill(os.getpid(), signal.SIGKILL)
        return noise(image)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_one_line_and_no_hang(workers, images):
    red = Image.open(io.BytesIO(images[5]["image"]["bytes"])).getpixel((0, 0))[0]
    loader = build_data_loader(images, Killed(red), batch_size=1, num_workers=workers)
    with pytest.raises(DataLoadingError, match=r"a process that loads images has died \(.*num_workers") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def failing(image) -> torch.Tensor:
    """A transform with an error of its own, of a kind that a lost connection has too."""
    raise FileNotFoundError("colour table")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_transform_are_passed_on_as_they_are(workers, images):
    with pytest.raises(FileNotFoundError, match="colour table"):
        list(build_data_loader(images, failing, batch_size=1, num_workers=workers))


class TakesTensors:
    accepts_tensors = True

    def __call__(self, image) -> torch.Tensor:
        assert isinstance(image, torch.Tensor)
        return image.float()


def test_a_transform_that_takes_tensors_gets_the_same_pixels(images):
    def as_tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

    loaded = [epoch(build_data_loader(images, transform, batch_size=3)) for transform in (TakesTensors(), as_tensor)]
    assert same(*loaded)


def test_a_data_set_that_was_used_goes_to_another_process(images):
    used = ImageDataset(images, TakesTensors())
    before = used[3]
    assert torch.equal(pickle.loads(pickle.dumps(used))[3]["pixel_values"], before["pixel_values"])


def test_images_of_different_sizes_are_refused(image_bytes):
    from torchvision.transforms.v2.functional import pil_to_tensor

    rows = {
        "image_id": ["a", "b"],
        "image": [{"bytes": image_bytes(0, size=(5 + n, 4)), "path": None} for n in range(2)],
        "labels": [[0], [1]],
    }
    images = datasets.Dataset.from_dict(rows, features=image_features(NAMES))
    with pytest.raises(ValueError, match=r"shapes \(3, 4, 5\) and \(3, 4, 6\); let the transform"):
        list(build_data_loader(images, pil_to_tensor, batch_size=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"batch_size": 1, "num_workers": -1}, "num_workers >= 0"),
        ({"batch_size": 1, "seed": -1}, "seed must be >= 0"),
        ({"batch_size": 1, "on_error": "ignore"}, "'raise' or 'skip', got 'ignore'"),
        ({"batch_size": 1, "draft_size": 5}, "draft_size must be"),
        ({"batch_size": 1, "shuffle": True, "sampler": range(3)}, "exclude each other"),
    ],
)
def test_bad_options_are_refused(options, message, images):
    with pytest.raises(ValueError, match=message):
        build_data_loader(images, noise, **options)


def test_indices_count_from_the_end_and_stop_there(images):
    dataset = build_data_loader(images, noise, batch_size=1).dataset
    assert torch.equal(dataset[-1]["pixel_values"], dataset[7]["pixel_values"])
    assert dataset[-1]["index"] == 7
    with pytest.raises(IndexError, match="index 8 is out of range for 8 images"):
        dataset[8]


def test_accelerate_sets_the_epoch_and_keeps_the_batches(images):
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    plain = build_data_loader(images, noise, batch_size=2, shuffle=True, seed=1)
    prepared = accelerator.prepare(build_data_loader(images, noise, batch_size=2, shuffle=True, seed=1))
    for number in (0, 3):
        prepared.set_epoch(number)
        batches = list(prepared)
        expected = epoch(plain, number)
        for key in expected:
            assert torch.equal(torch.cat([batch[key] for batch in batches]).cpu(), expected[key])
    # What is left of an epoch after a restart in its middle is what it would have been.
    prepared.set_epoch(3)
    rest = list(accelerator.skip_first_batches(prepared, 2))
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in rest]), expected["pixel_values"][4:])
