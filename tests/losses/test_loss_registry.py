# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import inspect
import re

import numpy as np
import pytest
import torch

from modeling_cssfe.losses import build_loss, get_loss_entry, list_losses


COUNTS = [9, 3, 1]
TOTAL = 10


def test_the_names_of_the_contract_exist_once():
    names = list_losses()
    assert {"bce", "mlsm", "rw", "focal", "cb_focal", "asl", "ldam", "db", "db_focal", "pg"} < set(names)
    assert len(names) == len(set(names)) == 12


@pytest.mark.parametrize("name", list_losses())
def test_every_entry_says_what_it_is_and_can_be_built_from_what_it_says(name):
    entry = get_loss_entry(name)
    assert entry.description.endswith(".")
    assert "\n" not in entry.description
    assert len(entry.description) < 110
    assert entry.defaults["reduction"] == "mean"
    statistics = {"class_counts": COUNTS, "num_samples": TOTAL}
    built = build_loss(name, **{need: statistics[need] for need in entry.needs}, **entry.defaults)
    logits, labels = torch.randn(2, 3), torch.ones(2, 3)
    assert torch.equal(built(logits, labels), build_loss(name, COUNTS, TOTAL)(logits, labels))


@pytest.mark.parametrize("name", list_losses())
def test_docstrings_name_shapes_source_use_and_sampler(name):
    entry = get_loss_entry(name)
    text = (inspect.getmodule(entry.cls).__doc__ or "") + (entry.cls.__doc__ or "")
    module = inspect.getmodule(entry.cls)
    for member in vars(module).values():
        if inspect.isfunction(member):
            text += member.__doc__ or ""
    text += inspect.getdoc(inspect.getmodule(get_loss_entry("db").cls)) if name == "db_focal" else ""
    if name in ("bce", "asl"):  # their code lies in the file that travels with a model
        from modeling_cssfe.losses import asl, bce

        text += (bce if name == "bce" else asl).__doc__
    for part in ("When to use:", "Recommended sampler:", "(batch, classes)"):
        assert part in text, part
    assert f"Recommended sampler: {entry.sampler}" in text


def test_an_unknown_name_is_named_with_what_exists_and_the_nearest():
    with pytest.raises(ValueError, match=r"'db_focall'.*bce, mlsm.*Did you mean 'db_focal'\?"):
        build_loss("db_focall")
    with pytest.raises(ValueError, match="unknown loss 'zzz'; choose one of bce") as error:
        build_loss("zzz")
    assert "Did you mean" not in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_option_is_named_with_what_exists_and_the_nearest():
    with pytest.raises(ValueError, match=r"'asl' has no option 'gama_neg'.*Did you mean 'gamma_neg'\?"):
        build_loss("asl", gama_neg=2)


@pytest.mark.parametrize("name", list_losses())
def test_what_is_missing_is_asked_for(name):
    needs = get_loss_entry(name).needs
    if "class_counts" in needs:
        with pytest.raises(ValueError, match=f"loss '{name}' needs class_counts, the number of training images"):
            build_loss(name, num_samples=TOTAL)
    if "num_samples" in needs:
        with pytest.raises(ValueError, match=f"loss '{name}' needs num_samples"):
            build_loss(name, class_counts=COUNTS)
    if not needs:
        build_loss(name)


@pytest.mark.parametrize("counts", [COUNTS, tuple(COUNTS), np.array(COUNTS), torch.tensor(COUNTS)], ids=type)
def test_counts_may_be_any_sequence(counts):
    logits, labels = torch.randn(2, 3), torch.ones(2, 3)
    assert torch.equal(build_loss("rw", counts)(logits, labels), build_loss("rw", COUNTS)(logits, labels))


@pytest.mark.parametrize(
    ("counts", "total", "message"),
    [
        ([], 10, "class_counts is empty"),
        ([1, -2], 10, r"class_counts\[1\] is -2"),
        ([1, float("nan")], 10, r"class_counts\[1\] is nan"),
        ([1, 12], 10, r"class_counts\[1\] is 12, more than num_samples = 10"),
        ([1, 2], 0, "num_samples is 0"),
    ],
)
def test_impossible_counts_are_refused(counts, total, message):
    with pytest.raises(ValueError, match=message):
        build_loss("db", counts, total)


@pytest.mark.parametrize("counts", ["abc", 5, [[1, 2], [3, 4]]])
def test_counts_of_the_wrong_type_are_refused(counts):
    with pytest.raises(TypeError, match="class_counts must be a sequence with one number a class"):
        build_loss("rw", counts)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": -1}),
        ("focal", {"balance": 0}),
        ("cb_focal", {"beta": 1.0}),
        ("cb_focal", {"gamma": float("nan")}),
        ("ldam", {"max_margin": -0.1}),
        ("ldam", {"scale": 0}),
        ("ldam", {"reweight_beta": 2}),
        ("ldam", {"reweight_epoch": -1}),
        ("db", {"preset": "cifar"}),
        ("db", {"negative_scale": 0}),
        ("db", {"alpha": -1}),
        ("db", {"mu": float("nan")}),
        ("db_focal", {"gamma": -2}),
        ("pg", {"preset": "cifar"}),
        ("pg", {"positive_divisor": 0}),
        ("pg", {"head_min": 5, "tail_max": 9}),
        ("two_way", {"positive_temperature": 0}),
        ("two_way", {"beta": -0.1}),
        ("logit_adjustment", {"tau": -1}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_by_name_when_built(name, options):
    (option,) = [key for key in options if key != "head_min"]
    with pytest.raises(ValueError, match=option) as error:
        build_loss(name, COUNTS, TOTAL, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", list_losses())
def test_an_unknown_reduction_is_refused_when_built(name):
    with pytest.raises(ValueError, match="'average'; choose one of mean, sum, none"):
        build_loss(name, COUNTS, TOTAL, reduction="average")


@pytest.mark.parametrize("options", [{"gamma_neg": -1}, {"gamma_pos": float("nan")}, {"margin": 1.0}])
def test_asls_options_are_refused_when_built(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build_loss("asl", **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("asl", {"margin": "0.1"}), ("asl", {"gamma_neg": None}), ("focal", {"gamma": "2"}), ("cb_focal", {"beta": [0.9]}),
     ("ldam", {"reweight_epoch": "3"}), ("db", {"mu": "0.3"}), ("pg", {"kappa": [0.1]})],
    ids=str,
)  # fmt: skip
def test_options_of_another_type_are_refused_by_name_when_built(name, options):
    ((option, value),) = options.items()
    with pytest.raises(TypeError, match=rf"{option} must be a .*number.*got {re.escape(repr(value))}") as error:
        build_loss(name, COUNTS, TOTAL, **options)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_torch_are_numbers():
    logits, labels = torch.randn(4, len(COUNTS)), torch.ones(4, len(COUNTS))
    expected = build_loss("db", COUNTS, TOTAL, mu=0.5)(logits, labels)
    for number in (np.float32(0.5), torch.tensor(0.5)):
        assert build_loss("db", COUNTS, np.int64(TOTAL), mu=number)(logits, labels) == expected
    with pytest.raises(TypeError, match="num_samples is '9'"):
        build_loss("db", COUNTS, "9")


def test_losses_without_statistics_ignore_them():
    logits, labels = torch.randn(2, 3), torch.ones(2, 3)
    assert torch.equal(build_loss("asl", COUNTS, TOTAL)(logits, labels), build_loss("asl")(logits, labels))
