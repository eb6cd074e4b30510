# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What holds for every sampler of the registry, whatever it draws."""

import copy
import json
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Sampler

from modeling_cssfe.samplers import build_sampler, get_sampler_entry, list_samplers


every_sampler = pytest.mark.parametrize("name", list_samplers())


def make_labels(images=60, frequencies=(0.7, 0.3, 0.1, 0.05), seed=0):
    labels = np.random.default_rng(seed).random((images, len(frequencies))) < np.array(frequencies)
    labels[:4] = np.eye(4, len(frequencies))  # each class has an image
    return labels.astype(np.int64)


def build(name, labels=None, **options):
    if name == "two_branch":
        options = {"batch_size": 4} | options
    return build_sampler(name, make_labels() if labels is None else labels, **options)


def flatten(items):
    return [i for item in items for i in (item if isinstance(item, list) else [item])]


@every_sampler
def test_it_is_a_torch_sampler_of_indices_with_the_length_it_states(name):
    sampler = build(name)
    items = list(sampler)
    assert isinstance(sampler, Sampler)
    assert len(items) == len(sampler)
    assert all(type(i) is int and 0 <= i < 60 for i in flatten(items))


@every_sampler
def test_the_order_depends_on_seed_and_epoch_alone(name):
    sampler = build(name, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(build(name, seed=3)) == first
    assert list(build(name, seed=4)) != first


@every_sampler
def test_every_epoch_has_the_same_length(name):
    sampler = build(name)
    lengths = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        lengths.add(len(list(sampler)))
    assert lengths == {len(sampler)}


@every_sampler
def test_no_global_generator_is_read_or_changed(name):
    def draw_with(seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        items = list(build(name))
        assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        return items

    assert draw_with(0) == draw_with(1)


@every_sampler
@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize("images", [60, 61, 7])
def test_ranks_take_turns_in_the_one_rank_order(name, ranks, images):
    labels = make_labels(images)
    alone = build(name, labels, seed=1)
    alone.set_epoch(2)
    order = alone.order().tolist()
    for drop_uneven in (False, True):
        shares = []
        for rank in range(ranks):
            sampler = build(name, labels, seed=1, num_replicas=ranks, rank=rank, drop_uneven=drop_uneven)
            sampler.set_epoch(2)
            items = list(sampler)
            assert len(items) == len(sampler)
            if name == "two_branch":  # back from batches of two halves to pairs
                halves = [(batch[: len(batch) // 2], batch[len(batch) // 2 :]) for batch in items]
                items = [list(pair) for half in halves for pair in zip(*half, strict=True)]
            shares.append(items)
        kept = len(order) // ranks * ranks if drop_uneven else len(order)
        dealt = [order[i] for i in range(kept)]
        assert shares == [dealt[rank::ranks] for rank in range(ranks)]
        assert sum(map(len, shares)) == kept
        assert max(map(len, shares)) - min(map(len, shares)) <= (0 if drop_uneven else 1)


@every_sampler
@pytest.mark.parametrize("stop", [0, 1, 5])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_resumed_pass_yields_exactly_what_was_left(name, stop, ranks):
    def fresh():
        return build(name, seed=7, num_replicas=ranks, rank=ranks - 1)

    whole = fresh()
    whole.set_epoch(3)
    expected = list(whole)
    interrupted = fresh()
    interrupted.set_epoch(3)
    iterator = iter(interrupted)
    seen = [next(iterator) for _ in range(stop)]
    state = json.loads(json.dumps(interrupted.state_dict()))  # plain numbers, whatever they are saved with
    resumed = fresh()
    resumed.load_state_dict(state)
    resumed.set_epoch(3)  # as a training loop does at the start of the epoch it resumes
    assert seen + list(resumed) == expected
    # Only the interrupted pass is short.
    assert list(resumed) == expected
    resumed.set_epoch(4)
    whole.set_epoch(4)
    assert list(resumed) == list(whole)


@every_sampler
def test_what_a_data_loader_has_read_ahead_can_be_taken_back(name):
    sampler = build(name)
    expected = list(sampler)
    ahead = iter(sampler)
    for _ in range(6):
        next(ahead)
    resumed = build(name)
    resumed.load_state_dict(sampler.state_dict(position=2))
    assert list(resumed) == expected[2:]


@every_sampler
def test_a_state_kept_for_the_next_epoch_is_dropped(name):
    sampler = build(name)
    iterator = iter(sampler)
    next(iterator)
    resumed = build(name)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(1)
    assert len(list(resumed)) == len(resumed)


@every_sampler
@pytest.mark.parametrize(
    ("other", "message"),
    [({"seed": 1}, "seed 1.*has 0"), ({"num_replicas": 2}, "num_replicas 2.*has 1")],
    ids=["seed", "ranks"],
)
def test_the_state_of_another_run_is_refused(name, other, message):
    with pytest.raises(ValueError, match=message):
        build(name).load_state_dict(build(name, **other).state_dict())
    with pytest.raises(ValueError, match="num_images 50"):
        build(name).load_state_dict(build(name, make_labels(50)).state_dict())


@every_sampler
def test_effective_counts_of_an_epoch_are_those_counted_one_by_one(name):
    labels = make_labels()
    sampler = build(name, labels)
    sampler.set_epoch(5)
    assert sampler.effective_counts(5).tolist() == labels[flatten(sampler)].sum(axis=0).tolist()


@every_sampler
def test_expected_counts_are_the_mean_over_many_epochs(name):
    sampler = build(name)
    epochs = [sampler.effective_counts(epoch) for epoch in range(400)]
    mean, error = np.mean(epochs, axis=0), np.std(epochs, axis=0) / np.sqrt(len(epochs))
    assert np.all(np.abs(mean - sampler.effective_counts()) <= 4 * error + 1e-9)


@every_sampler
@pytest.mark.parametrize("kind", ["list", "bool", "tensor", "bfloat16", "unknown as -1", "unknown as NaN"])
def test_any_form_of_labels_serves_and_unknown_is_absent(name, kind):
    labels = make_labels()
    forms = {
        "list": labels.tolist(),
        "bool": labels.astype(bool),
        "tensor": torch.tensor(labels),
        "bfloat16": torch.tensor(labels, dtype=torch.bfloat16),
        "unknown as -1": np.where(labels == 1, 1, -1),
        "unknown as NaN": np.where(labels == 1, 1.0, np.nan),
    }
    assert list(build(name, forms[kind])) == list(build(name, labels))


@every_sampler
def test_what_is_no_whole_number_is_refused_by_name(name):
    labels = [[1, 0], [0, 1]]
    for option, value in (("seed", "a"), ("seed", 1.5), ("num_replicas", None), ("rank", 0.5)):
        with pytest.raises(TypeError, match=f"{option} must be a whole number >= .*, got {value!r}"):
            build(name, labels, **{option: value})
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        build(name, labels, seed=-1)
    with pytest.raises(TypeError, match=r"epoch must be a whole number >= 0, got 1\.5"):
        build(name, labels).set_epoch(1.5)
    with pytest.raises(ValueError, match="rows of different lengths"):
        build(name, [[1], [1, 0]])


@settings(max_examples=25, deadline=None)
@given(st.data())
@every_sampler
def test_any_labels_give_a_whole_order_or_one_line_of_refusal(name, data):
    images, classes = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    labels = np.array(
        data.draw(
            st.lists(
                st.lists(st.sampled_from([0, 1, -1]), min_size=classes, max_size=classes),
                min_size=images,
                max_size=images,
            )
        )
    )
    if name in ("class_aware", "two_branch") and not (labels > 0).any():
        with pytest.raises(ValueError, match="no image has a label"):
            build(name, labels)
        return
    sampler = build(name, labels)
    items = flatten(sampler)
    assert set(items) <= set(range(images))
    assert items
    assert np.isfinite(sampler.effective_counts()).all()


@every_sampler
def test_it_serves_a_data_loader(name):
    data = torch.arange(60)
    kind = "batch_sampler" if get_sampler_entry(name).yields_batches else "sampler"
    loader = DataLoader(data, **{kind: build(name)})
    assert torch.cat(list(loader)).tolist() == flatten(build(name))


@every_sampler
def test_copies_and_pickles_draw_the_same(name):
    sampler = build(name)
    for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert list(twin) == list(sampler)


@every_sampler
def test_a_hundred_thousand_images_of_a_hundred_classes_are_drawn(name):
    labels = np.random.default_rng(0).random((100_000, 100)) < 0.01
    sampler = build(name, labels)
    assert len(sampler.order()) == sampler.epoch_length
