# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import hashlib
import io
from itertools import combinations

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from modeling_cssfe.data import LTDigits, class_statistics, decode_image, load_images
from modeling_cssfe.data.builders.lt_digits import (
    LABEL_NAMES,
    TRAIN_COUNTS,
    _draw_labels,
    _generator,
    _glyph_mask,
    _source_pools,
)


SMALL = {"train_counts": (3, 2, 2, 9, 1, 4, 1, 6, 2, 2), "validation_images": 10, "test_images": 20}


def build(cache, **options) -> datasets.DatasetDict:
    builder = LTDigits(cache_dir=str(cache), **{**SMALL, **options})
    builder.download_and_prepare()
    return builder.as_dataset()


def digest(splits: datasets.DatasetDict) -> str:
    """Of pixels and labels; the PNG files themselves depend on the compression library."""
    content = hashlib.sha256()
    for split in splits.values():
        for row in split.cast_column("image", datasets.Image(decode=False)):
            pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
            content.update(repr((row["image_id"], row["labels"], pixels.shape)).encode())
            content.update(pixels.tobytes())
    return content.hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> datasets.DatasetDict:
    # The one build of all 2,547 scenes, for all tests of the default set: about eight seconds on one core.
    return load_images("lt_digits", cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_training_counts_fall_exactly_as_promised(whole):
    statistics = class_statistics(whole["train"])
    assert statistics.label_names == LABEL_NAMES
    assert LABEL_NAMES == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert statistics.class_counts == TRAIN_COUNTS
    assert sorted(TRAIN_COUNTS, reverse=True) == [775, 343, 154, 100, 64, 34, 20, 14, 7, 4]
    assert 900 <= statistics.num_samples <= 1100
    assert statistics.unlabeled == 0
    assert len(statistics.labels_per_image) == 5  # one to four labels occur


def test_validation_and_test_have_every_class_equally_often(whole):
    for split, images in (("validation", 600), ("test", 1000)):
        statistics = class_statistics(whole[split])
        assert statistics.num_samples == images
        assert len(set(statistics.class_counts)) == 1
        assert statistics.class_counts[0] >= images / 10
        assert len(statistics.labels_per_image) == 5


def test_tail_digits_mostly_stand_beside_head_digits(whole):
    tail = {index for index, count in enumerate(TRAIN_COUNTS) if count < 20}
    head = {index for index, count in enumerate(TRAIN_COUNTS) if count >= 100}
    with_tail = [set(labels) for labels in whole["train"]["labels"] if tail & set(labels)]
    assert np.mean([bool(labels & head) for labels in with_tail]) > 0.6


def test_scenes_are_rgb_of_96_pixels_and_all_different(whole):
    images = [decode_image(cell) for cell in whole["train"]["image"][:50]]
    assert {(image.mode, image.size) for image in images} == {("RGB", (96, 96))}
    assert len({image.tobytes() for image in images}) == 50


def test_features_are_those_of_real_data_sets(tmp_path):
    built = build(tmp_path)
    assert built["train"].features == datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            "labels": datasets.List(datasets.ClassLabel(names=list(LABEL_NAMES))),
        }
    )
    assert built["train"][0]["image"].size == (96, 96)
    assert class_statistics(built["train"]).class_counts == SMALL["train_counts"]


def test_the_pixels_are_the_same_on_every_machine(tmp_path):
    # Recorded once. A change of the drawing changes it: raise LTDigits.VERSION then, by which caches go.
    assert str(LTDigits.VERSION) == "1.0.0"
    assert digest(build(tmp_path)) == "1b7741f9e018f573fecc14257d2bbf419ebee49a8bdc3aba1e856b7f92fd36a1"


def test_another_seed_gives_other_scenes(tmp_path):
    assert digest(build(tmp_path, seed=1)) != digest(build(tmp_path))


def test_no_source_digit_is_in_two_splits():
    targets = load_digits().target
    pools = [np.concatenate(pool) for pool in _source_pools(targets, seed=0)]
    for first, second in combinations(pools, 2):
        assert not np.intersect1d(first, second).size
    assert sorted(np.concatenate(pools)) == list(range(1797))
    for pool in _source_pools(targets, seed=0):
        for digit, members in enumerate(pool):
            assert (targets[members] == digit).all()
            assert len(members) >= 30


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_drawn_to_exact_counts(seed):
    counts = (40, 1, 25, 7, 7)
    rows = _draw_labels(_generator(seed), counts, 48)
    assert len(rows) == 48
    assert all(1 <= len(row) == len(set(row)) <= 4 for row in rows)
    assert [sum(label in row for row in rows) for label in range(5)] == list(counts)


def test_a_digit_is_drawn_where_and_as_it_stands():
    glyph = np.zeros((8, 8))
    glyph[:2, :] = 1  # ink in the upper quarter only
    (rows, columns), mask = _glyph_mask(_generator(5), glyph, 40.0, 30.0, 20.0)
    canvas = np.zeros((96, 96))
    canvas[rows, columns] = mask
    weight = canvas / canvas.sum()
    # The middle of the upper quarter of a box of 40 pixels at (30, 20), give or take the tilt.
    assert (weight * (np.arange(96)[None, :] + 0.5)).sum() == pytest.approx(50, abs=5)
    assert (weight * (np.arange(96)[:, None] + 0.5)).sum() == pytest.approx(25, abs=3)
    # Ink is 8 of the 8 x 8 cells wide and 2 high, stretched by at most 15 %.
    assert canvas.sum() == pytest.approx(40 * 10, rel=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_counts": (1, 2)}, "train_counts must be 10 numbers >= 1"),
        ({"train_counts": (0,) * 10}, "train_counts must be 10 numbers >= 1"),
        ({"test_images": 3}, "must be >= 10, got 10 and 3"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_bad_options_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        LTDigits(cache_dir=str(tmp_path), **{**SMALL, **options})


def test_a_profile_without_room_is_refused():
    with pytest.raises(ValueError, match="choose counts of which none is above"):
        _draw_labels(_generator(0), (100, 5), 60)
