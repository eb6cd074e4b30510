# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The losses against implementations that other packages have."""

import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from modeling_cssfe.losses import build_loss


COUNTS = [90, 30, 5, 2, 1]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, len(COUNTS), generator=generator) * 4
    return logits, (torch.rand(logits.shape, generator=generator) < 0.4).float()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bce_is_torchs(batch, reduction):
    expected = F.binary_cross_entropy_with_logits(*batch, reduction=reduction)
    torch.testing.assert_close(build_loss("bce", reduction=reduction)(*batch), expected)


def test_mlsm_is_torchs_mean_its_row_means_and_its_sum_times_the_classes(batch):
    torch.testing.assert_close(build_loss("mlsm")(*batch), F.multilabel_soft_margin_loss(*batch))
    rows = build_loss("mlsm", reduction="none")(*batch).mean(dim=1)
    torch.testing.assert_close(rows, F.multilabel_soft_margin_loss(*batch, reduction="none"))
    total = build_loss("mlsm", reduction="sum")(*batch)
    torch.testing.assert_close(total, len(COUNTS) * F.multilabel_soft_margin_loss(*batch, reduction="sum"))


@pytest.mark.parametrize("gamma", [0, 1, 2, 2.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_focal_is_torchvisions(batch, gamma, reduction):
    expected = sigmoid_focal_loss(*batch, alpha=-1, gamma=gamma, reduction=reduction)
    torch.testing.assert_close(build_loss("focal", gamma=gamma, balance=1.0, reduction=reduction)(*batch), expected)


@pytest.mark.parametrize("options", [(4, 0, 0.05), (4, 1, 0.05), (2, 0, 0.0), (0, 0, 0.2)])
def test_asl_is_timms_including_the_gradient_without_focus(batch, options):
    gamma_neg, gamma_pos, margin = options
    logits, labels = batch
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    # timm's default divides the sum by the batch.
    expected = AsymmetricLossMultiLabel(
        gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=margin, disable_torch_grad_focal_loss=True, reduction="sum"
    )(theirs, labels)
    value = build_loss("asl", gamma_pos=gamma_pos, gamma_neg=gamma_neg, margin=margin, reduction="sum")(ours, labels)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_logit_adjustment_is_a_two_class_softmax_with_log_priors_added(batch):
    logits, labels = batch
    tau, prior = 0.7, torch.tensor(COUNTS) / 100
    # Class 1 is "present" with logit z and prior n/N, class 0 "absent" with logit 0 and the rest.
    two_class = torch.stack((tau * (1 - prior).log().expand_as(logits), logits + tau * prior.log()), dim=1)
    expected = F.cross_entropy(two_class, labels.long())
    torch.testing.assert_close(build_loss("logit_adjustment", COUNTS, 100, tau=tau)(logits, labels), expected)


def test_two_way_within_images_is_softmax_cross_entropy_for_single_labels(batch):
    # One positive an image, temperatures 1: log(1 + sum exp(z_n - z_p)) is torch's cross-entropy. Each class must then
    # have no negative image to compare with, so one image at a time.
    logits, _ = batch
    loss = build_loss("two_way", COUNTS, beta=0, positive_temperature=1.0, negative_temperature=1.0)
    for row, target in zip(logits, (0, 3, 2, 1, 4, 0, 3), strict=True):
        labels = F.one_hot(torch.tensor([target]), len(COUNTS))
        torch.testing.assert_close(loss(row[None], labels), F.cross_entropy(row[None], torch.tensor([target])))
