# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Special points at which one loss must become another, and what each ingredient does alone."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from modeling_cssfe.losses import (
    build_loss,
    db_constants,
    effective_number_weight,
    guided_exponents,
    ldam_margin,
    log_odds,
    probability_guided_loss,
)


COUNTS = [775, 240, 100, 34, 20, 4, 1]
TOTAL = 1142


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, len(COUNTS), generator=generator, dtype=torch.float64) * 3
    return logits, (torch.rand(logits.shape, generator=generator) < 0.4).double()


def build(name, counts=COUNTS, total=TOTAL, **options):
    return build_loss(name, counts, total, reduction="none", **options).double()


def bce(logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def test_focal_without_focus_is_weighted_bce(batch):
    torch.testing.assert_close(build("focal", gamma=0, balance=3.0)(*batch), 3 * bce(*batch))


def test_asl_with_all_zero_is_bce(batch):
    torch.testing.assert_close(build("asl", gamma_pos=0, gamma_neg=0, margin=0)(*batch), bce(*batch))


def test_rw_with_equal_counts_is_bce(batch):
    torch.testing.assert_close(build("rw", counts=[5] * 7)(*batch), bce(*batch))


def test_cb_focal_with_beta_zero_is_focal(batch):
    torch.testing.assert_close(build("cb_focal", beta=0)(*batch), build("focal")(*batch))


def test_ldam_without_margin_and_scale_is_bce(batch):
    torch.testing.assert_close(build("ldam", max_margin=0, scale=1)(*batch), bce(*batch))


def test_logit_adjustment_with_tau_zero_is_bce(batch):
    torch.testing.assert_close(build("logit_adjustment", tau=0)(*batch), bce(*batch))


def test_logit_adjustment_is_the_shift_of_probability_rebalancing(batch):
    shifted = build("pg", kappa=0.4, gamma=0, **dict.fromkeys(("positive_scale", "negative_scale"), 1))
    torch.testing.assert_close(build("logit_adjustment", tau=0.4)(*batch), shifted(*batch))


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_negative_tolerance_is_probability_rebalancing_at_its_special_point(batch, scale):
    # alpha .5 and beta 0 make every weight of the distribution-balanced loss .5 + sigmoid(0) = 1.
    tolerant = build("db", negative_scale=scale, alpha=0.5, beta=0)
    special = build(
        "pg", positive_scale=1, positive_divisor=1, negative_scale=scale, negative_divisor=scale, apr=False, gamma=0
    )
    torch.testing.assert_close(tolerant(*batch), special(*batch))


def test_db_with_equal_counts_and_two_labels_an_image_is_a_constant_times_its_parts(batch):
    logits, _ = batch
    labels = torch.zeros_like(logits)
    labels[:, [1, 4]] = 1
    counts, kappa, scale = [50] * 7, 0.05, 5.0
    shift = kappa * math.log(200 / 50 - 1)
    part = labels * F.softplus(shift - logits) + (1 - labels) * F.softplus(scale * (logits - shift)) / scale
    # Two equally frequent labels: each ratio r is one half.
    constant = 0.1 + 1 / (1 + math.exp(-10 * (0.5 - 0.3)))
    torch.testing.assert_close(build("db", counts, 200, preset="voc", kappa=kappa)(logits, labels), constant * part)


def test_the_released_slip_is_a_kappa_that_is_lambda_times_smaller(batch):
    torch.testing.assert_close(
        build("db_focal", preset="voc", shift_over_scale=True)(*batch),
        build("db_focal", preset="voc", kappa=0.01)(*batch),
    )


def test_db_focal_without_focus_is_db(batch):
    torch.testing.assert_close(build("db_focal", gamma=0, balance=1)(*batch), build("db")(*batch))


def test_pg_without_adaptation_is_probability_rebalancing_times_focal(batch):
    logits, labels = batch
    nu = 0.05 * torch.tensor([math.log(TOTAL / n - 1) for n in COUNTS], dtype=torch.float64)
    x = 2 * (logits - nu)  # LT-COCO's scales: l1+ = l1- = 2, l2 = 1
    wrong = torch.where(labels == 1, torch.sigmoid(-x), torch.sigmoid(x))
    rebalanced = build("pg", preset="coco", gamma=0)(logits, labels)
    torch.testing.assert_close(build("pg", preset="coco", apaf=False)(logits, labels), rebalanced * wrong**2)


def test_pg_with_every_switch_off_is_focal(batch):
    torch.testing.assert_close(build("pg", pr=False, apaf=False)(*batch), build("focal", balance=1.0)(*batch))


def test_pg_raises_scales_for_the_tail_only_where_asked(batch):
    logits, labels = batch
    head_and_medium, tail = slice(0, 5), slice(5, 7)  # 20 images are medium, 4 are tail
    plain = build("pg", positive_scale=1, negative_scale=1, gamma=0)(logits, labels)
    adapted = build("pg", apr=True, gamma=0)(logits, labels)
    everywhere = build("pg", apr=False, gamma=0)(logits, labels)
    torch.testing.assert_close(adapted[:, head_and_medium], plain[:, head_and_medium])
    torch.testing.assert_close(adapted[:, tail], everywhere[:, tail])
    assert not torch.isclose(everywhere, plain).all(dim=0).any()


def test_the_side_that_lags_is_focused_less():
    # Positives at probability .2, negatives at .8: exponents 2 * .25 and 2 * 4.
    error = torch.full((4, 1), 0.8), torch.full((4, 1), 0.2)
    labels = torch.tensor([[1.0], [0], [0], [1]])
    groups, mask = torch.zeros(1, dtype=torch.int64), torch.tensor([[0.0], [math.nan], [math.nan]])
    known = torch.ones(4, 1, dtype=torch.bool)
    positive, negative = guided_exponents(*error, labels, known, groups, mask, gamma=2.0)
    torch.testing.assert_close(torch.cat((positive, negative)), torch.tensor([0.5, 8.0]))


def test_presets_hold_the_published_constants():
    assert (db_constants(COUNTS, TOTAL, "voc").mu, db_constants(COUNTS, TOTAL, "voc").negative_scale) == (0.3, 5)
    assert (db_constants(COUNTS, TOTAL, "coco").mu, db_constants(COUNTS, TOTAL, "coco").negative_scale) == (0.2, 2)


def test_the_rule_for_mu_is_the_mean_ratio_over_positive_labels():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(300, 9, generator=generator) < torch.linspace(0.02, 0.6, 9)).double()
    labels = labels[labels.sum(1) > 0]
    counts = labels.sum(0)
    ratio = (1 / counts) / (labels / counts).sum(1, keepdim=True)
    expected = ratio[labels == 1].mean().item()
    assert db_constants(counts.tolist(), len(labels)).mu == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "published", "centre"), [("voc", 0.3, 0.487), ("coco", 0.2, 0.230)])
def test_the_rule_for_mu_comes_near_the_published_choice(name, published, centre):
    path = Path(__file__).parents[2] / f"../shared/data/lt_lists/{name}_lt_train.txt"
    if not path.exists():
        pytest.skip(f"the official list of LT-{name.upper()} is not beside the project (../shared/data/lt_lists)")
    images = [[int(word) for word in line.split()[1:]] for line in path.read_text().splitlines()]
    counts = [sum(c in image for image in images) for c in range(1 + max(map(max, images)))]
    mu = db_constants(counts, len(images)).mu
    assert mu == pytest.approx(centre, abs=1e-3)
    assert published / 2 < mu < published * 2


def test_effective_numbers_at_their_ends():
    # (1 - .9) / (1 - .9^2) = .1 / .19, and 1 for a single image; no image counts as one.
    weights = effective_number_weight([1, 2, 0, 10**6], 0.9)
    assert weights.tolist() == pytest.approx([1, 0.1 / 0.19, 1, 0.1])
    assert effective_number_weight([3, 300], 0.0).tolist() == [1, 1]
    # Towards 1 it is 1 / n, where 1 - beta^n computed plainly has lost most digits.
    assert effective_number_weight([50], 1 - 1e-12).item() == pytest.approx(1 / 50, rel=1e-9)


def test_margins_fall_with_the_fourth_root_of_the_count():
    assert ldam_margin([16, 1, 256, 0], 0.5).tolist() == pytest.approx([0.25, 0.5, 0.125, 0.5])


def test_log_odds_of_none_and_all_are_those_of_one_and_all_but_one():
    odds = log_odds([0, 1, 5, 9, 10], 10)
    assert odds.tolist() == pytest.approx([-math.log(9), -math.log(9), 0, math.log(9), math.log(9)])
    assert log_odds([0, 1], 1).tolist() == [0, 0]


def test_ldam_reweights_from_the_given_epoch_on(batch):
    loss = build("ldam", reweight_epoch=3)
    plain = loss(*batch)
    weights = effective_number_weight(COUNTS, 0.9999)
    for epoch, expected in ((0, 1.0), (2, 1.0), (3, weights / weights.mean()), (9, weights / weights.mean()), (1, 1.0)):
        loss.set_epoch(epoch)
        torch.testing.assert_close(loss(*batch), plain * expected)


def test_ldam_reweights_for_the_last_fifth_of_a_known_number_of_epochs(batch):
    loss = build("ldam")
    loss.set_epoch(79)
    assert not loss.reweighting
    for num_epochs, start in ((200, 160), (80, 64), (35, 28), (5, 4), (4, 3), (2, 1), (1, 0)):
        for epoch in range(num_epochs):
            loss.set_epoch(epoch, num_epochs=num_epochs)
            assert loss.reweighting == (epoch >= start)


def test_ldam_keeps_its_place_through_a_move(batch):
    loss = build("ldam", reweight_epoch=1)
    loss.set_epoch(1)
    expected = loss(*batch)
    torch.testing.assert_close(loss.half().double()(*batch), expected)


def test_exponents_of_a_group_that_is_absent_are_gamma(batch):
    logits, _ = batch
    labels = torch.zeros_like(logits)  # no positive of any class
    adaptive = build("pg", preset="coco")(logits, labels)
    torch.testing.assert_close(adaptive, build("pg", preset="coco", apaf=False)(logits, labels))


def test_the_pure_function_defaults_to_plain_focal(batch):
    torch.testing.assert_close(probability_guided_loss(*batch, reduction="none"), build("focal", balance=1.0)(*batch))
