# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from loss_formulas import FORMULAS, OPTIONS

from modeling_cssfe.losses import build_loss, list_losses


CASES = [(name, options) for name in OPTIONS for options in OPTIONS[name]]
COUNTS = [775, 240, 100, 99, 20, 19, 4, 1]
TOTAL = 1142


def make_case(kind):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, len(COUNTS), generator=generator, dtype=torch.float64) * 3
    labels = (torch.rand(logits.shape, generator=generator) < 0.35).double()
    labels[0] = 0  # an image without any label
    labels[:, 4] = 0  # a class that is absent from the batch
    labels[:, 1] = 1  # one that every image carries
    if kind == "unknown":
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = -1
        labels[2] = -1
        labels[:, 6] = -1
    if kind == "tail absent":
        labels[:, 5:] = 0
    if kind == "soft":
        labels = (labels + 0.1).clamp(max=0.9)
    return logits, labels


def test_every_loss_has_a_formula_to_be_compared_with():
    assert set(FORMULAS) == set(OPTIONS) == set(list_losses())


@pytest.mark.parametrize("kind", ["plain", "unknown", "tail absent", "soft"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_values_and_gradients_are_those_of_the_slow_formula(name, options, kind):
    logits, labels = make_case(kind)
    slow_logits = logits.clone().requires_grad_()
    slow = FORMULAS[name](slow_logits, labels, COUNTS, TOTAL, **options)
    weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (slow_gradient,) = torch.autograd.grad((slow * weights).sum(), slow_logits)

    loss = build_loss(name, COUNTS, TOTAL, reduction="none", **options).double()
    fast_logits = logits.clone().requires_grad_()
    fast = loss(fast_logits, labels)
    (gradient,) = torch.autograd.grad((fast * weights).sum(), fast_logits)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["plain", "unknown"])
@pytest.mark.parametrize("name", list_losses())
def test_reductions_are_sum_and_mean_over_known_labels_with_rows_weighted(name, kind):
    logits, labels = make_case(kind)
    slow = FORMULAS[name](logits, labels, COUNTS, TOTAL)
    row_weights = torch.tensor([0.5, 0, 2, 1, 3, 0.1], dtype=torch.float64)
    known = (labels >= 0).double()
    number = known.sum()
    if name == "mlsm":  # the mean over images that have a known label
        number = (known.sum(1) > 0).sum() * known.shape[1]
    for sample_weight, expected in ((None, slow.sum()), (row_weights, (slow * row_weights[:, None]).sum())):
        for reduction, divisor in (("sum", 1), ("mean", number)):
            loss = build_loss(name, COUNTS, TOTAL, reduction=reduction).double()
            # LDAM's default scale of 30 takes exp() of the slow formula to its limit of digits.
            torch.testing.assert_close(loss(logits, labels, sample_weight), expected / divisor, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", list_losses())
def test_fp32_follows_the_formula_closely(name):
    logits, labels = make_case("unknown")
    slow = FORMULAS[name](logits, labels, COUNTS, TOTAL)
    fast = build_loss(name, COUNTS, TOTAL, reduction="none")(logits.float(), labels)
    torch.testing.assert_close(fast.double(), slow, rtol=2e-5, atol=2e-6)
