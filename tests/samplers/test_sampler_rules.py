# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What each sampler draws."""

import math
from pathlib import Path

import numpy as np
import pytest

from modeling_cssfe.samplers import (
    LabelIndex,
    build_sampler,
    class_repeat_factors,
    get_sampler_entry,
    list_samplers,
    resample_stream,
)


# Class 0 has images 0..9, class 1 has 8..11, class 2 has 11, class 3 has none; image 12 has no label.
LABELS = np.zeros((13, 4), dtype=int)
LABELS[:10, 0] = LABELS[8:12, 1] = LABELS[11, 2] = 1
IMAGES_OF = {0: set(range(10)), 1: {8, 9, 10, 11}, 2: {11}}


def test_uniform_draws_every_image_once():
    assert sorted(build_sampler("uniform", LABELS)) == list(range(13))
    assert build_sampler("uniform", LABELS).effective_counts().tolist() == [10, 4, 1, 0]


def test_class_aware_epochs_have_the_stated_length():
    assert len(build_sampler("class_aware", LABELS)) == 10 * 4 // 4
    assert len(build_sampler("class_aware", LABELS, length_divisor=3)) == 13  # 10 * 4 / 3, rounded down


@pytest.mark.parametrize("epoch", range(5))
def test_class_aware_gives_every_class_a_turn_of_three_in_each_cycle(epoch):
    sampler = build_sampler("class_aware", LABELS, length_divisor=0.5)
    order = sampler.order(epoch)
    assert len(order) == 80
    turns = [set(order[start : start + 3].tolist()) for start in range(0, 78, 3)]
    for start in range(0, 24, 3):
        cycle = turns[start : start + 3]
        # Three classes with images: some assignment of the cycle's turns to all of them must fit.
        assert any(
            all(cycle[turn] <= IMAGES_OF[label] for turn, label in enumerate(assignment))
            for assignment in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        )


def test_class_aware_turns_come_in_a_new_order_each_cycle():
    labels = np.eye(12, 4, dtype=int) + np.eye(12, 4, k=-4, dtype=int) + np.eye(12, 4, k=-8, dtype=int)
    order = build_sampler("class_aware", labels, length_divisor=0.1).order()
    classes = labels[order].argmax(axis=1)
    cycles = [tuple(classes[start : start + 12 : 3]) for start in range(0, 108, 12)]
    assert all(sorted(cycle) == [0, 1, 2, 3] for cycle in cycles)
    assert len(set(cycles)) > 1


def test_class_aware_goes_through_all_images_of_a_class_before_it_repeats_one():
    labels = np.zeros((20, 2), dtype=int)
    labels[:12, 0] = labels[12:, 1] = 1
    order = build_sampler("class_aware", labels, length_divisor=0.2).order()
    for label, number in ((0, 12), (1, 8)):
        draws = order[labels[order, label] == 1]
        for start in range(0, len(draws) - number + 1, number):
            assert len(set(draws[start : start + number])) == number


def test_class_aware_draws_each_class_equally_often():
    # With one label an image nothing is drawn along.
    labels = np.repeat(np.eye(3, dtype=int), (60, 10, 2), axis=0)
    counts = build_sampler("class_aware", labels).effective_counts()
    assert counts == pytest.approx([15, 15, 15])


@pytest.mark.parametrize(("name", "length"), [("voc", 775 * 20 // 4), ("coco", 1128 * 80 // 4)])
def test_class_aware_epochs_of_the_benchmarks(name, length):
    path = Path(__file__).parents[2] / f"../shared/data/lt_lists/{name}_lt_train.txt"
    if not path.exists():
        pytest.skip(f"the official list of LT-{name.upper()} is not beside the project (../shared/data/lt_lists)")
    images = [[int(word) for word in line.split()[1:]] for line in path.read_text().splitlines()]
    labels = np.zeros((len(images), 1 + max(map(max, images))), dtype=bool)
    for row, classes in enumerate(images):
        labels[row, classes] = True
    sampler = build_sampler("class_aware", labels)
    assert len(list(sampler)) == length
    # Each class has its equal share of turns, and what other classes' turns draw along.
    assert np.all(sampler.effective_counts() >= length / labels.shape[1] - 1e-6)


def test_repeat_factors_are_those_of_the_formula_by_the_rarest_class():
    sampler = build_sampler("repeat_factor", LABELS, threshold=0.5)
    of_class = [max(1, math.sqrt(0.5 / (n / 13))) for n in (10, 4, 1)]
    expected = [of_class[0]] * 8 + [of_class[1]] * 3 + [of_class[2]] + [1]
    assert sampler.repeat_factors.tolist() == pytest.approx(expected)


def test_every_image_is_repeated_by_its_factor_rounded_up_or_down():
    sampler = build_sampler("repeat_factor", LABELS, threshold=1.0)
    assert len(sampler) == round(sampler.repeat_factors.sum())
    totals = np.zeros(13)
    for epoch in range(300):
        draws = np.bincount(sampler.order(epoch), minlength=13)
        assert np.all(draws >= np.floor(sampler.repeat_factors))
        assert np.all(draws <= np.ceil(sampler.repeat_factors))
        totals += draws
    # The whole length is rounded, which moves all fractions a little.
    assert totals / 300 == pytest.approx(sampler.repeat_factors, abs=0.12)


def test_the_default_threshold_repeats_what_has_fewer_than_a_hundred_images():
    assert class_repeat_factors([400, 100, 25, 4, 0], 1000).tolist() == [1, 1, 2, 5, 10]
    # On the 100,000 images of LVIS that is its threshold of .001.
    counts = [5, 50, 5000]
    assert class_repeat_factors(counts, 100_000) == pytest.approx(class_repeat_factors(counts, 100_000, 0.001))


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1 / 10] * 8 + [1 / 4] * 3 + [1] + [1 / 13]),
        ({"power": 0.5}, [10**-0.5] * 8 + [0.5] * 3 + [1] + [13**-0.5]),
        ({"combine": "mean"}, [0.1] * 8 + [0.175] * 2 + [0.25] + [0.625] + [1 / 13]),
        ({"combine": "sum"}, [0.1] * 8 + [0.35] * 2 + [0.25] + [1.25] + [1 / 13]),
        ({"power": 0}, [1] * 13),
    ],
    ids=str,
)
def test_inverse_frequency_weights_are_those_of_the_formula(options, weights):
    sampler = build_sampler("inverse_frequency", LABELS, num_samples=26, **options)
    assert sampler.expected_draws().tolist() == pytest.approx(26 * np.array(weights) / sum(weights))
    assert len(list(sampler)) == 26


def test_two_branch_batches_are_a_uniform_half_and_a_rebalanced_half():
    sampler = build_sampler("two_branch", LABELS, batch_size=5, rebalanced_options={"length_divisor": 0.3})
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [10, 10, 6]
    uniform = [i for batch in batches for i in batch[: len(batch) // 2]]
    rebalanced = [i for batch in batches for i in batch[len(batch) // 2 :]]
    assert sorted(uniform) == list(range(13))
    assert 12 not in rebalanced  # no class would draw it
    for start in range(0, 12, 3):
        assert any(set(rebalanced[start : start + 3]) <= images for images in IMAGES_OF.values())
    assert len(list(build_sampler("two_branch", LABELS, batch_size=5, drop_last=True))) == 2


def test_a_short_rebalanced_order_goes_on_into_another():
    # 10 * 4 / 40 = 1 draw an order, for 13 uniform ones.
    sampler = build_sampler("two_branch", LABELS, batch_size=13, rebalanced_options={"length_divisor": 40})
    (batch,) = sampler
    assert len(batch) == 26
    assert len(set(batch[13:])) > 1


def test_any_sampler_serves_as_the_second_branch():
    for name in ("uniform", "repeat_factor", "inverse_frequency"):
        sampler = build_sampler("two_branch", LABELS, rebalanced=name)
        assert sampler.order().shape == (13, 2)
    with pytest.raises(ValueError, match="sampler of single images"):
        build_sampler("two_branch", LABELS, rebalanced="two_branch")


def test_the_label_index_lists_images_by_class():
    index = LabelIndex(LABELS)
    assert index.class_counts.tolist() == [10, 4, 1, 0]
    assert [set(images.tolist()) for images in index.images_of_classes()] == [*IMAGES_OF.values(), set()]


def test_a_stream_is_repeated_by_the_factors_of_the_sampler():
    examples = [{"id": i, "labels": row} for i, row in enumerate(LABELS)]
    counts = LABELS.sum(axis=0)
    factors = build_sampler("repeat_factor", LABELS, threshold=1.0).repeat_factors
    totals = np.zeros(13)
    for epoch in range(300):
        ids = [e["id"] for e in resample_stream("repeat_factor", examples, counts, 13, epoch=epoch, threshold=1.0)]
        assert ids == sorted(ids)
        totals += np.bincount(ids, minlength=13)
    assert totals / 300 == pytest.approx(factors, abs=0.12)
    again = [e["id"] for e in resample_stream("repeat_factor", examples, counts, 13, epoch=299, threshold=1.0)]
    assert again == ids


def test_a_uniform_stream_is_passed_on():
    assert list(resample_stream("uniform", iter([3, 1, 2]), [1], 3)) == [3, 1, 2]


@pytest.mark.parametrize("name", [n for n in list_samplers() if not get_sampler_entry(n).streams])
def test_samplers_that_cannot_stream_say_so_and_name_those_that_can(name):
    with pytest.raises(ValueError, match=f"'{name}' needs random access.*uniform, repeat_factor"):
        resample_stream(name, [], [1], 1)


def test_the_registry_names_what_exists_and_the_nearest():
    assert list_samplers() == ["uniform", "class_aware", "repeat_factor", "inverse_frequency", "two_branch"]
    for name in list_samplers():
        entry = get_sampler_entry(name)
        assert entry.description.endswith(".")
        assert len(entry.description) < 110
        build_sampler(name, LABELS, **entry.defaults)
    with pytest.raises(ValueError, match=r"'class_awar'.*uniform, class_aware.*Did you mean 'class_aware'\?"):
        build_sampler("class_awar", LABELS)
    with pytest.raises(ValueError, match=r"'class_aware' has no option 'images_per_clas'.*Did you mean"):
        build_sampler("class_aware", LABELS, images_per_clas=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uniform", {"seed": -1}, "seed must be >= 0, got -1"),
        ("uniform", {"num_replicas": 2, "rank": 2}, "rank 2 and num_replicas 2"),
        ("uniform", {"num_replicas": 0}, "num_replicas must be >= 1, got 0"),
        ("class_aware", {"images_per_class": 0}, "images_per_class must be >= 1"),
        ("class_aware", {"length_divisor": 0}, "length_divisor must be > 0"),
        ("repeat_factor", {"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ("inverse_frequency", {"power": -1}, "power must be >= 0"),
        ("inverse_frequency", {"combine": "median"}, "'median'; choose one of max, mean, sum"),
        ("inverse_frequency", {"num_samples": 0}, "num_samples must be >= 1"),
        ("two_branch", {"batch_size": 0}, "batch_size must be >= 1"),
        ("two_branch", {"rebalanced": "nothing"}, "unknown sampler 'nothing'"),
    ],
)
def test_options_out_of_range_are_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_sampler(name, LABELS, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [[1, 0], np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((2, 2, 2)), [["a", "b"]]])
def test_labels_that_are_no_matrix_of_numbers_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be a multi-hot matrix of numbers"):
        build_sampler("uniform", labels)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="epoch must be >= 0, got -1"):
        build_sampler("uniform", LABELS).set_epoch(-1)
